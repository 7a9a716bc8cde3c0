"""Select the image files of a folder by name, with the same rule for training and the device.

This file is copied into bundles unchanged: Python 3.6 syntax, standard library only.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import List, Sequence

# The usual names of the formats of image.py. Special formats need a decoder that may be missing; their files are listed nevertheless,
# so that each unreadable file is reported with the reason.
SPECIAL = (".avif", ".heic", ".heif", ".hif")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", *SPECIAL),
)

# Folders created by operating systems, NAS devices and tools: previews, resource forks, recycle bins.
IGNORED_FOLDERS = frozenset(("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"))


def is_ignored(name: str) -> bool:
    """Whether a file or folder is ignored: hidden (``.ipynb_checkpoints``, ``._1.jpg``) or created by a system."""
    return name.startswith(".") or name.lower() in IGNORED_FOLDERS


def is_image(name: str) -> bool:
    """Whether a file name is that of an image. The content is not read."""
    return not is_ignored(name) and name.lower().endswith(EXTENSIONS)


def named_images(names: "Sequence[str]") -> "List[str]":
    """The given files, with each folder replaced by the sorted images below it.

    Links are followed, each folder is read once. Pipes and devices in a folder are ignored, because they may block or be endless.

    Raises:
        FileNotFoundError: a folder holds no images; the text is for the user.
    """
    files = []  # type: List[str]
    for name in names:
        if not Path(name).is_dir():
            files.append(name)
            continue
        inside = _below(name)
        if not inside:
            raise FileNotFoundError("the folder {} holds no images; known endings: {}".format(name, " ".join(EXTENSIONS)))
        files += inside
    return files


def _below(folder: str) -> "List[str]":
    found, read = [], set()
    for here, inner, files in os.walk(folder, followlinks=True):
        real = Path(here).resolve()
        inner[:] = [] if real in read else sorted(name for name in inner if not is_ignored(name))
        if real not in read:
            read.add(real)
            paths = [Path(here, name) for name in files if is_image(name)]
            found += [str(path) for path in paths if path.is_file() or not path.exists()]  # a dangling link is reported later
    return sorted(found)
