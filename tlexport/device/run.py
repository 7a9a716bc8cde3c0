"""Runs this bundle: ``python3 run.py --help``."""

import runpy

runpy.run_module("tlx", run_name="__main__", alter_sys=True)
