"""``python3 -m tlx``: the same as ``python3 run.py``."""

import sys

from .cli import main

sys.exit(main())
