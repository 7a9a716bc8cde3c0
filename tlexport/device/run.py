"""Run this bundle: ``python3 run.py --help``.

Only files in the manifest are run. This folder is removed from the search path before any other import, so a foreign ``numpy.py``
beside this file is never imported. The runner is compiled from the bytes whose hashes were checked, so bytecode in
``tlx/__pycache__`` is neither read nor written, on any version of Python.
"""

import sys

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    # this folder, even if PYTHONPATH contains it
    sys.path[:] = [entry for entry in sys.path[1:] if entry not in ("", ".", sys.path[0])]
sys.dont_write_bytecode = True

import hashlib  # noqa: E402 - after the change of the search path, this is the standard library's
import importlib.abc  # noqa: E402
import importlib.machinery  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import stat  # noqa: E402
from pathlib import Path  # noqa: E402
from types import CodeType  # noqa: E402

MANIFEST = "manifest.json"
PACKAGE = "tlx"
LARGEST = 16 * 10**6  # bytes of a file that is read here; the manifest may have as many
HINT = "hint: get the bundle again from whoever made it; nothing in it was run\n"


class Refused(Exception):
    """A file of this bundle has changed since the export. The second argument is the exit code."""


class Listed(importlib.abc.InspectLoader):
    """Import the modules of the runner from the checked sources, without bytecode."""

    def __init__(self, folder: Path, sources: "dict[str, bytes]") -> None:
        self.folder, self.sources = folder, sources

    def find_spec(self, name: str, path: object = None, target: object = None) -> "importlib.machinery.ModuleSpec | None":
        """The module spec of a name; None if the module is not part of the runner."""
        if name.split(".")[0] != PACKAGE:
            return None
        file = self.file_of(name)
        if not file:
            raise ModuleNotFoundError("No module named {!r} in the manifest".format(name), name=name)
        spec = importlib.machinery.ModuleSpec(name, self, origin=str(self.folder / file), is_package=file.endswith("/__init__.py"))
        spec.has_location = True  # so that __file__ is set
        return spec

    def file_of(self, name: str) -> str:
        """The source file of a module; empty if there is none."""
        base = name.replace(".", "/")
        return next((file for file in (base + "/__init__.py", base + ".py") if file in self.sources), "")

    def get_source(self, name: str) -> str:
        """The checked source."""
        return self.sources[self.file_of(name)].decode("utf-8")

    def get_code(self, name: str) -> CodeType:
        """Code compiled from the checked source; ``__pycache__`` is ignored."""
        return self.source_to_code(self.get_source(name), str(self.folder / self.file_of(name)))


def read(path: Path) -> bytes:
    """Bytes of a regular file. Raises Refused if it is missing, a link, a special file, or too large."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():
            raise Refused("{} is a link; a regular file was expected".format(path), 5)
        with os.fdopen(os.open(str(path), flags), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise Refused("{} is not a regular file".format(path), 5)
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise Refused("{} cannot be read: {}".format(path, error.strerror or error), 5) from None
    if len(content) > LARGEST:
        raise Refused("{} is larger than {} bytes".format(path, LARGEST), 5)
    return content


def listed(folder: Path) -> "dict[str, str]":
    """The manifest's files with their hashes. Raises Refused if it is not a manifest."""
    path = folder / MANIFEST
    try:
        files = json.loads(read(path).decode("utf-8"))["files"]
        return {str(name): str(files[name]) for name in files}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Refused("{} is not the manifest of a bundle: {!r:.200}".format(path, error), 2) from None


def sources(folder: Path) -> "dict[str, bytes]":
    """Read the files of the runner and check their hashes. Raises Refused."""
    found = {}
    for name, expected in listed(folder).items():
        if name.startswith(PACKAGE + "/") and name.endswith(".py") and ".." not in name:
            found[name] = read(folder / name)
            if hashlib.sha256(found[name]).hexdigest() != expected:
                raise Refused("{} is not the file that was exported: its hash is not the manifest's".format(folder / name), 5)
    if PACKAGE + "/cli.py" not in found:
        raise Refused("{} lists no runner".format(folder / MANIFEST), 2)
    return found


def main() -> int:
    """Check the runner, run it, and return its exit code."""
    folder = Path(__file__).resolve().parent
    # a link in PYTHONPATH may lead here too
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    try:
        checked = sources(folder)
    except Refused as error:
        sys.stderr.write("error: {}\n{}".format(error.args[0], HINT))
        return int(error.args[1])
    sys.meta_path.insert(0, Listed(folder, checked))
    try:
        return int(importlib.import_module(PACKAGE + ".cli").main())
    except ImportError as error:
        if error.name != "numpy":
            raise
        sys.stderr.write("error: numpy is missing, and the runner needs it\nhint: {} -m pip install numpy\n".format(sys.executable))
        return 3


if __name__ == "__main__":
    sys.exit(main())
