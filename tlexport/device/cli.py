"""The command line of a bundle, such as ``python3 run.py predict photo.jpg``."""

import argparse
import difflib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import commands
from .errors import DeviceError, InvalidFile
from .manifest import Bundle
from .terminal import printable, say

if TYPE_CHECKING:
    from typing import Any, List, NoReturn, Optional, Sequence

INTERRUPTED = 130  # exit code after Ctrl-C, as in shells
COMMANDS = {
    "info": "show the bundle, the software of this device, and which runtime would run the bundle",
    "setup": "prepare a new device: build the engine if the bundle has one, verify, then bench",
    "build": "build the TensorRT engine of a TensorRT bundle; a compatible engine is reused",
    "verify": "check all file hashes, then replay the golden images; names the faulty file, decoder, resize or runtime",
    "predict": "classify images: files, folders, or - for one image on standard input",
    "bench": "measure latency, memory and load time on the golden images",
}
EXAMPLES = """examples:
  python3 run.py setup
  python3 run.py info
  python3 run.py verify --json
  python3 run.py predict photo.jpg folder/ --precision int8
  python3 run.py predict - --json < photo.jpg
  python3 run.py bench --threads 1 --json
  python3 run.py build
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> "NoReturn":
        raise InvalidFile(message, "see: python3 run.py --help")


def main(arguments: "Optional[Sequence[str]]" = None, folder: "Optional[Path]" = None) -> int:
    """Run one command and return its exit code. Results go to standard output, everything else to standard error.

    Args:
        arguments: default: the arguments of the process.
        folder: the bundle; default: the bundle that contains this package.
    """
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        bundle = Bundle(options.bundle or folder or Path(__file__).resolve().parent.parent)
        if options.precision not in (None, "all", *bundle.precisions):
            raise InvalidFile(
                f"the bundle {bundle.data['name']} holds no {options.precision} model{nearest(options.precision, bundle.precisions)}",
                f"it holds: {', '.join(bundle.precisions)}",
            )
        result = getattr(commands, options.command)(bundle, options)
        if options.json:
            _write(json.dumps(result.json, indent=1))
        elif result.text:
            _write(printable(result.text, "\n"))
        if result.error is not None:
            raise result.error
    except DeviceError as error:
        say(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has exited, as in: | head
        sys.stderr.close()
        return 1
    return 0


def parse(arguments: "Sequence[str]") -> "Any":
    """Read a command line. Raises InvalidFile for an unknown option or command, with the nearest valid one."""
    parser = _parser()
    options, rest = parser.parse_known_args(list(arguments))
    known = [name for action in parser._actions for name in action.option_strings]
    for word in rest:
        if word.startswith("-") and word not in ("-", "--"):
            name = word.partition("=")[0]
            raise InvalidFile(f"there is no option {name}{nearest(name, known)}", "see: python3 run.py --help")
    words = [word for word in rest if word != "--"]
    if not words:
        raise InvalidFile("a command is missing", f"commands: {', '.join(COMMANDS)}; see: python3 run.py --help")
    options.command, options.images = words[0], words[1:]
    if options.command not in COMMANDS:
        raise InvalidFile(
            f"there is no command {options.command}{nearest(options.command, list(COMMANDS))}", f"commands: {', '.join(COMMANDS)}"
        )
    if options.command == "predict" and not options.images:
        raise InvalidFile("no image was named", "python3 run.py predict photo.jpg, or a folder, or - for standard input")
    if options.command != "predict" and options.images:
        raise InvalidFile(f"{options.command} takes no {options.images[0]!r}", "see: python3 run.py --help")
    return options


def _parser() -> _Parser:
    listed = "\n".join(f"  {name:8} {text}" for name, text in COMMANDS.items())
    parser = _Parser(
        prog="run.py",
        usage="python3 run.py setup|info|build|verify|predict IMAGE...|bench [options]",
        description=f"Run a model on this device.\n\ncommands:\n{listed}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print only JSON on standard output")
    add("--precision", metavar="P", help="model to use, or all (verify, bench); default: the model that the export chose (verify: all)")
    add("--runtime", default="auto", metavar="R", help="auto, onnxruntime, tensorrt or trtexec; default auto: the target's runtime")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N; default auto: the target's device")
    add("--threads", type=_positive, metavar="N", help="CPU threads; default: one per core")
    add("--batch", type=_positive, default=1, metavar="N", help="images per run; default 1")
    add("--runs", type=_positive, default=100, metavar="N", help="bench: minimum number of runs; default 100")
    add("--seconds", type=_seconds, default=1.0, metavar="S", help="bench: minimum duration in seconds; default 1")
    add("--no-copies", action="store_true", help="bench: time an engine with CUDA events, without copies to and from the GPU")
    add("--check-only", action="store_true", help="bench: compare the outputs without timing (for emulators)")
    add("--raw", type=_size, metavar="WxH", help="predict: images are raw RGB bytes of this size, row by row")
    add("--bundle", metavar="FOLDER", help="bundle to use; default: the folder of run.py")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _size(text: str) -> "List[int]":
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x480")
    return [int(part) for part in parts]


def nearest(word: str, known: "List[str]") -> str:
    """A clause such as ``"; did you mean '--json'?"``, or an empty text if no known word is similar."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _write(text: str) -> None:
    """Write to standard output as UTF-8, because class names may contain characters that the locale's encoding lacks."""
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:  # a replacement that accepts only text
        sys.stdout.write(text + "\n")
        return
    sys.stdout.flush()
    stream.write((text + "\n").encode("utf-8"))
    stream.flush()
