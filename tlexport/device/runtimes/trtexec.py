"""Runs TensorRT through its program trtexec, for boards without TensorRT's Python bindings, such as those with JetPack 4.

Python 3.6 syntax: this file is copied into bundles unchanged. trtexec_command.py has the command lines; trtexec_log.py and
trtexec_json.py parse the output.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple

from ..errors import DeviceError, InvalidFile, Unsupported
from .build_options import version_text
from .trtexec_command import DEFAULT_TIMING, TimingOptions, bench_command, build_command, device_option, predict_command
from .trtexec_json import ProfiledLayer, read_output_file, read_profile, read_times
from .trtexec_log import BUILT, MEASURED, TrtexecLog, require
from .trtexec_program import ask_version, find_trtexec, run

if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Mapping, Union

    import numpy as np
    import numpy.typing as npt

    Report = Callable[[str], None]


class Bench(NamedTuple):
    """A measurement."""

    log: TrtexecLog
    latencies_ns: Tuple[int, ...]  # one per run, in order
    layers: Tuple[ProfiledLayer, ...]  # empty unless requested
    mode: str  # mode of the measurement, for the user
    peak_memory_bytes: Optional[int]


def build(
    onnx: "Union[str, Path]", engine: "Union[str, Path]", recipe: "Mapping[str, Any]", report: "Optional[Report]" = None, device: int = 0
) -> TrtexecLog:
    """Build an engine and write it atomically.

    A timing cache per TensorRT version is kept beside it, which speeds up later builds.

    Args:
        onnx: the model.
        engine: the file to write.
        recipe: as for :func:`~.trtexec_command.build_command`.
        report: receives each line of the log.
        device: number of the GPU.

    Returns:
        The log of the build.

    Raises:
        DeviceError: the build failed; with the log's last lines.
        MissingDependency: trtexec was not found.
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
                "trtexec reported success for {}, but wrote nothing".format(engine), "check the free space: df {}".format(engine.parent)
            )
        beside.replace(engine)
    finally:
        if beside.exists():
            beside.unlink()
    return log


def bench(
    engine: "Union[str, Path]",
    recipe: "Mapping[str, Any]",
    timing: TimingOptions = DEFAULT_TIMING,
    layers: bool = False,
    report: "Optional[Report]" = None,
    device: int = 0,
) -> Bench:
    """Time an engine; see :func:`~.trtexec_command.bench_command` for what is measured.

    Args:
        engine: the file.
        recipe: as for the build.
        timing: number and duration of the runs, and whether copies are included.
        layers: whether to time the layers too, in a run after the others.
        report: receives each line of the log.
        device: number of the GPU.

    Raises:
        DeviceError: trtexec failed or its output is truncated; with the log's last lines.
        MissingDependency: trtexec was not found.
    """
    program = find_trtexec()
    version = ask_version(program)
    with tempfile.TemporaryDirectory(prefix="tlx-") as folder:
        times, profile = Path(folder) / "times.json", Path(folder) / "layers.json"
        command = bench_command(version, Path(engine).absolute(), recipe, times, profile if layers else None, timing)
        ended = run(program, command + device_option(device), report)
        log = require(ended.text, MEASURED, ended.status)
        latencies = read_times(_written(times), log.queries or 0, log.warmup_queries or 0)
        found = read_profile(_written(profile)) if layers else ()
    return Bench(log, latencies, found, mode_text(log), ended.peak_memory_bytes)


def mode_text(log: TrtexecLog) -> str:
    """The mode of a measurement, from its log: ``"CUDA graph, spin wait, copies to and from the GPU not counted"``."""
    words = [
        {True: "CUDA graph", False: "no CUDA graph"}.get(log.cuda_graph),  # type: ignore[arg-type]  # None finds nothing
        {True: "spin wait", False: "blocking wait"}.get(log.spin_wait),  # type: ignore[arg-type]
        {True: "copies to and from the GPU counted", False: "copies to and from the GPU not counted"}.get(
            log.data_transfers  # type: ignore[arg-type]
        ),
    ]
    return ", ".join(word for word in words if word)


def measured(found: Bench) -> "Dict[str, Any]":
    """A measurement with the keys of the record Measurement, without the fields that describe the model."""
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
        raise DeviceError("trtexec reported success, but wrote no {}: {}".format(path.name, error.strerror or error)) from None


class TrtexecSession:
    """An engine run by trtexec, one process per image: for verification, not for speed."""

    def __init__(self, program: str, version: Tuple[int, ...], engine: Path, recipe: "Mapping[str, Any]", device: int) -> None:
        self._program, self._version, self._engine, self._recipe, self._device = program, version, engine, recipe, device
        self._folder = tempfile.TemporaryDirectory(prefix="tlx-")
        self.provider = "TensorRT {}".format(version_text(version))

    def run(self, pixels: "npt.NDArray[Any]") -> "npt.NDArray[np.float32]":
        """Probabilities of each image.

        Args:
            pixels: (image, height, width, channel), uint8 or float32 (the model's input dtype), 0..255.

        Returns:
            float32 (image, class).

        Raises:
            InvalidFile: pixels of another size.
            DeviceError: trtexec failed; with the log's last lines.
        """
        import numpy as np

        expected = tuple(self._recipe["shape"][1:])
        if pixels.ndim != 4 or pixels.shape[1:] != expected or not len(pixels):
            raise InvalidFile("the engine takes images of {}; found {}".format(expected, pixels.shape))
        return np.concatenate([self._one(image) for image in pixels])

    def _one(self, image: "npt.NDArray[Any]") -> "npt.NDArray[np.float32]":
        folder = Path(self._folder.name)
        (folder / "image.bin").write_bytes(image.tobytes())  # always in C order
        output = folder / "output.json"
        if output.exists():
            output.unlink()
        command = predict_command(self._version, self._engine, self._recipe, "image.bin", "output.json")
        command += device_option(self._device)
        ended = run(self._program, command, folder=str(folder))
        require(ended.text, (), ended.status)
        probabilities = read_output_file(_written(output))
        return probabilities.reshape(1, -1)

    def close(self) -> None:
        """Delete the temporary files and end the session."""
        self._folder.cleanup()

    def __enter__(self) -> "TrtexecSession":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_trtexec(engine: "Union[str, Path]", recipe: "Mapping[str, Any]", device: int = 0) -> TrtexecSession:
    """Open an engine for predictions.

    Args:
        engine: the file.
        recipe: as for the build, for one image at a time.
        device: number of the GPU.

    Raises:
        InvalidFile: the file does not exist.
        Unsupported: the engine takes several images at a time.
        MissingDependency: trtexec was not found.
    """
    path = Path(engine).absolute()
    if not path.is_file():
        raise InvalidFile("{} does not exist".format(path), "python3 run.py build")
    if recipe["shape"][0] != 1:
        raise Unsupported("the engine takes {} images at a time; trtexec runs one at a time here".format(recipe["shape"][0]))
    program = find_trtexec()
    return TrtexecSession(program, ask_version(program), path, recipe, device)
