"""Which files of a folder are images, by their names: one rule for training and for the device.

It is copied into bundles as it is: Python 3.6 syntax, standard library only.
"""

# The usual names of the formats of image.py. The special ones need a decoder that is not everywhere: such files are listed, so that
# each one that cannot be read is reported with the reason, not left out in silence.
SPECIAL = (".avif", ".heic", ".heif", ".hif")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", *SPECIAL),
)

# Folders that operating systems, NAS boxes and tools leave between the images: previews, resource forks, waste bins.
IGNORED_FOLDERS = frozenset(("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"))


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is left out, with all in it: hidden (``.ipynb_checkpoints``, ``._1.jpg``) or a system's."""
    return name.startswith(".") or name.lower() in IGNORED_FOLDERS


def is_image(name: str) -> bool:
    """Whether a file of this name counts as an image. Its content is not read."""
    return not is_ignored(name) and name.lower().endswith(EXTENSIONS)
