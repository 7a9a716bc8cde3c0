"""TensorRT through its own program trtexec: the way of boards whose Python has no TensorRT, JetPack 4 above all.

Python 3.6 syntax: it is copied into bundles as it is. The command lines are in trtexec_command.py; what comes back is read in
trtexec_log.py and trtexec_json.py.
"""

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple

from ..errors import DeviceError, InvalidFile, MissingDependency, Unsupported
from ..lifeline import bound
from .build_options import parse_version, version_text
from .trtexec_command import bench_command, build_command, device_option, predict_command
from .trtexec_json import LayerTime, read_output, read_profile, read_times
from .trtexec_log import BUILT, MEASURED, Log, last_lines, read_log, require

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Mapping, Sequence, Union

    import numpy as np
    import numpy.typing as npt

    Report = Callable[[str], None]

JETPACK = "/usr/src/tensorrt/bin/trtexec"  # where NVIDIA's Debian packages put it, outside of PATH
INSTALL = "install TensorRT (on a Jetson: sudo apt-get install tensorrt), or say where trtexec is: TRTEXEC=/path/to/trtexec"


class Ended(NamedTuple):
    """A run of the program."""

    status: int  # exit status; negative: the signal that ended it
    text: str  # standard output and standard error, as they came
    peak_memory_bytes: Optional[int]  # largest resident size; None where the system does not tell


class Bench(NamedTuple):
    """A measurement."""

    log: Log
    latencies_ns: Tuple[int, ...]  # one per run, in order
    layers: Tuple[LayerTime, ...]  # empty unless asked for
    mode: str  # what was measured, in words
    peak_memory_bytes: Optional[int]


def find_trtexec() -> str:
    """Path of the program: what ``$TRTEXEC`` names, else JetPack's place, else ``PATH``.

    Raises:
        MissingDependency: there is none, or ``$TRTEXEC`` names no program.
    """
    named = os.environ.get("TRTEXEC")
    if named:
        found = shutil.which(named)
        if not found:
            raise MissingDependency("TRTEXEC is {}, which is no program that can be run".format(named), INSTALL)
        return found
    found = shutil.which(JETPACK) or shutil.which("trtexec")
    if not found:
        raise MissingDependency("trtexec is neither {} nor on PATH".format(JETPACK), INSTALL)
    return found


def ask_version(program: str) -> Tuple[int, ...]:
    """Which TensorRT a trtexec is of. Started without options it prints its banner and its help, and needs no GPU for that.

    Returns:
        ``(8, 2, 1)``; from 10.14 on with the build number.

    Raises:
        MissingDependency: it does not run, as where a library is missing, or says no version.
    """
    ended = run(program, ())
    version = read_log(ended.text).tensorrt
    if version is None:
        lines = "".join("\n  " + line for line in last_lines(ended.text))
        raise MissingDependency("{} does not say its version (exit status {}){}".format(program, ended.status, lines), INSTALL)
    return parse_version(version)


def run(program: str, arguments: "Sequence[str]", report: "Optional[Report]" = None, folder: "Optional[str]" = None) -> Ended:
    """Run trtexec, and wait for it. However this process ends, that one ends too.

    Args:
        program: its path.
        arguments: its options.
        report: is given each line as it comes, without the time stamp.
        folder: the working directory.

    Raises:
        MissingDependency: it cannot be started.
    """
    try:
        Path(program).stat()  # what starts it does not say why it cannot
        if not os.access(program, os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        process = subprocess.Popen(
            bound([program, *arguments]), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder
        )
    except OSError as error:
        raise MissingDependency("{} cannot be started: {}".format(program, error.strerror or error), INSTALL) from None
    lines: "list[str]" = []
    with process:
        try:
            for raw in process.stdout or ():
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                lines.append(line)
                if report is not None:
                    for text in last_lines(line):
                        report(text)
            memory = _wait(process)
        except BaseException:
            process.kill()
            raise
    return Ended(process.returncode, "\n".join(lines), memory)


def _wait(process: "subprocess.Popen[bytes]") -> Optional[int]:
    """Wait for the end. Returns the largest resident size, bytes."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return usage.ru_maxrss * 1024  # Linux counts it in units of 1024 bytes


def build(
    onnx: "Union[str, Path]", engine: "Union[str, Path]", recipe: "Mapping[str, Any]", report: "Optional[Report]" = None, device: int = 0
) -> Log:
    """Build an engine. It is written beside and renamed, so that an engine that is there is whole.

    Timings of kernels are kept beside it, one file for each version of TensorRT: another build is then quicker.

    Args:
        onnx: the model.
        engine: the file to write.
        recipe: as for :func:`~.trtexec_command.build_command`.
        report: is given each line of the log as it comes.
        device: number of the GPU.

    Returns:
        What trtexec says of the build.

    Raises:
        DeviceError: the build failed; with the log's last lines.
        MissingDependency: there is no trtexec.
    """
    program = find_trtexec()
    version = ask_version(program)
    engine = Path(engine).absolute()
    beside = engine.with_name(engine.name + ".building")
    timings = engine.with_name("trtexec-{}.timing.cache".format(version_text(version)))
    command = build_command(version, Path(onnx).absolute(), beside, recipe, timings) + device_option(device)
    try:
        ended = run(program, command, report)
        log = require(ended.text, BUILT, ended.status)
        if not beside.is_file() or beside.stat().st_size == 0:
            raise DeviceError(
                "trtexec says that it built {}, and wrote nothing".format(engine), "is there room left? df {}".format(engine.parent)
            )
        beside.replace(engine)
    finally:
        if beside.exists():
            beside.unlink()
    return log


def bench(
    engine: "Union[str, Path]",
    recipe: "Mapping[str, Any]",
    runs: int = 100,
    seconds: float = 1.0,
    layers: bool = False,
    transfers: bool = False,
    report: "Optional[Report]" = None,
    device: int = 0,
) -> Bench:
    """Time an engine; see :func:`~.trtexec_command.bench_command` for what is measured.

    Args:
        engine: the file.
        recipe: as for the build.
        runs: at least so many,
        seconds: and at least this long.
        layers: whether to time the layers too, in a run after the others.
        transfers: whether copies to and from the GPU are counted.
        report: is given each line of the log as it comes.
        device: number of the GPU.

    Raises:
        DeviceError: trtexec failed, or what it wrote is cut short; with the log's last lines.
        MissingDependency: there is no trtexec.
    """
    program = find_trtexec()
    version = ask_version(program)
    with tempfile.TemporaryDirectory(prefix="tlx-") as folder:
        times, profile = Path(folder) / "times.json", Path(folder) / "layers.json"
        command = bench_command(
            version, Path(engine).absolute(), recipe, times, profile if layers else None, runs, seconds, transfers=transfers
        )
        ended = run(program, command + device_option(device), report)
        log = require(ended.text, MEASURED, ended.status)
        latencies = read_times(_written(times), log.queries or 0, log.warmup_queries or 0)
        found = read_profile(_written(profile)) if layers else ()
    return Bench(log, latencies, found, mode_text(log), ended.peak_memory_bytes)


def mode_text(log: Log) -> str:
    """What a measurement measured, as its own log says it: ``"CUDA graph, spin wait, copies to and from the GPU not counted"``."""
    words = [
        {True: "CUDA graph", False: "no CUDA graph"}.get(log.cuda_graph),  # type: ignore[arg-type]  # None finds nothing
        {True: "spin wait", False: "blocking wait"}.get(log.spin_wait),  # type: ignore[arg-type]
        {True: "copies to and from the GPU counted", False: "copies to and from the GPU not counted"}.get(
            log.data_transfers  # type: ignore[arg-type]
        ),
    ]
    return ", ".join(word for word in words if word)


def measured(found: Bench) -> "Dict[str, Any]":
    """A measurement as plain data, by the names of the product's record Measurement; what is known of the model is not in it."""
    return {
        "runtime": "trtexec",
        "provider": "TensorRT {}".format(found.log.tensorrt),
        "threads": 1,
        "warmup_runs": found.log.warmup_queries or 0,
        "latencies_ns": list(found.latencies_ns),
        "load_ns": max(1, round((found.log.load_seconds or 0) * 1e9)),
        "peak_memory_bytes": found.peak_memory_bytes,
        "mode": found.mode,
    }


def _written(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DeviceError("trtexec says that it passed, and wrote no {}: {}".format(path.name, error.strerror or error)) from None


class TrtexecSession:
    """An engine that trtexec runs, one image at a time. Each takes a start of the program: for verifying, not for speed."""

    def __init__(self, program: str, version: Tuple[int, ...], engine: Path, recipe: "Mapping[str, Any]", device: int) -> None:
        self._program, self._version, self._engine, self._recipe, self._device = program, version, engine, recipe, device
        self._folder = tempfile.TemporaryDirectory(prefix="tlx-")
        self.provider = "TensorRT {}".format(version_text(version))

    def run(self, pixels: "npt.NDArray[Any]") -> "npt.NDArray[np.float32]":
        """Probabilities of each image.

        Args:
            pixels: (image, height, width, channel), uint8 or float32, 0..255: of the model's input dtype.

        Returns:
            float32 (image, class).

        Raises:
            InvalidFile: pixels of another size.
            DeviceError: trtexec failed; with the log's last lines.
        """
        import numpy as np

        expected = tuple(self._recipe["shape"][1:])
        if pixels.ndim != 4 or pixels.shape[1:] != expected or not len(pixels):
            raise InvalidFile("the engine takes images of {}, and {} came".format(expected, pixels.shape))
        return np.concatenate([self._one(image) for image in pixels])

    def _one(self, image: "npt.NDArray[Any]") -> "npt.NDArray[np.float32]":
        folder = Path(self._folder.name)
        (folder / "image.bin").write_bytes(image.tobytes())  # in C order, whatever the array's own
        output = folder / "output.json"
        if output.exists():
            output.unlink()
        command = predict_command(self._version, self._engine, self._recipe, "image.bin", "output.json")
        command += device_option(self._device)
        ended = run(self._program, command, folder=str(folder))
        require(ended.text, (), ended.status)
        probabilities = read_output(_written(output))
        return probabilities.reshape(1, -1)

    def close(self) -> None:
        """Delete the files in between. The session is of no use any more."""
        self._folder.cleanup()

    def __enter__(self) -> "TrtexecSession":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_trtexec(engine: "Union[str, Path]", recipe: "Mapping[str, Any]", device: int = 0) -> TrtexecSession:
    """Make ready to predict with an engine.

    Args:
        engine: the file.
        recipe: as for the build; of one image at a time.
        device: number of the GPU.

    Raises:
        InvalidFile: there is no such file.
        Unsupported: the engine takes several images at a time.
        MissingDependency: there is no trtexec.
    """
    path = Path(engine).absolute()
    if not path.is_file():
        raise InvalidFile("{} does not exist".format(path), "python3 run.py build")
    if recipe["shape"][0] != 1:
        raise Unsupported("the engine takes {} images at a time, and trtexec is given one".format(recipe["shape"][0]))
    program = find_trtexec()
    return TrtexecSession(program, ask_version(program), path, recipe, device)
