"""ONNX Runtime: opens ``.onnx`` files on the CPU or on an NVIDIA GPU, without fallback.

ONNX Runtime itself falls back to the CPU if a GPU provider cannot be loaded or has no kernel for a node, and only logs it. Here both
raise :class:`~tlexport.errors.Unsupported`.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args

from tlexport.contract import TensorSpec
from tlexport.device.runtimes.half_rounding import FIXED, rounding
from tlexport.device.runtimes.native_log import native_log, pass_on, plain
from tlexport.device.runtimes.onnx_session import onnxruntime_version
from tlexport.errors import InvalidFile, StepFailed, TlxError, Unsupported, UsageError
from tlexport.onnx_model.file import check_onnx_file, may_refer_to_files
from tlexport.onnx_model.names import printable
from tlexport.onnx_model.runtime_errors import refusal
from tlexport.ports import RunOptions
from tlexport.record import nearest

if TYPE_CHECKING:
    from tlexport.ports import Array

FORMATS = ("onnx",)


# The GPU build looks for graphics cards while it is imported, before any log level can be set, and warns of each odd one.
with native_log() as _import_log:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as native
pass_on(_import_log)

_ERROR, _FATAL = 3, 4  # ONNX Runtime's log levels
ort.set_default_logger_severity(_ERROR)
ort.disable_telemetry_events()

# errors of the C++ library; their only common base is Exception
_MODEL_ERRORS = (native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf, native.NoModel, native.NoSuchFile)
_ALL_ERRORS = (*_MODEL_ERRORS, native.NotImplemented, native.RuntimeException, native.EPFail, native.EngineError, ValueError, RuntimeError)

_DTYPES = {f"tensor({name})": name for name in get_args(TensorSpec.model_fields["dtype"].annotation)}
_DTYPES |= {"tensor(float)": "float32", "tensor(double)": "float64"}


def auto_device() -> str:
    """The CPU: whether a GPU provider can run a model is only known after opening it."""
    return "cpu"


def open_model(path: Path, options: RunOptions) -> OnnxRunner:
    """Open an ONNX file whose weights are inside it.

    ``threads=None`` leaves the number of threads to ONNX Runtime: one for each physical core of the machine.
    On ``cuda:N`` every node runs on the GPU, and TF32 is off, so that FP32 means FP32.

    Raises:
        InvalidFile: missing, not ONNX, broken, or with external data.
        Unsupported: the device is unavailable or cannot run a part of the model, or the batch cannot be fixed.
        UsageError: ``options.device`` is not a device name; fewer than one thread or image.
    """
    return open_with(path, options, *_provider(options.device))


def open_with(path: Path, options: RunOptions, provider: str, settings: dict[str, str]) -> OnnxRunner:
    """As :func:`open_model`, with the given execution provider and its settings."""
    for name, value in (("threads", options.threads), ("batch", options.batch)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; at least 1 was expected")
    if options.external_data:
        may_refer_to_files(path)
    else:
        check_onnx_file(path)
    if provider not in ort.get_available_providers():
        raise Unsupported(
            f"cannot run {path} on {options.device}: this build of onnxruntime {ort.__version__} has no {provider}",
            'ask for --device cpu; on a PC with an NVIDIA GPU: pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"',
        )
    with _mapped(f"open {path}", _MODEL_ERRORS):
        if provider == "CPUExecutionProvider":
            settled = _session_options(options)
            if _weight_only(path):  # otherwise the weights are dequantized in every run
                settled.add_session_config_entry("session.disable_quant_qdq", "1")
            model = rounding(path) if onnxruntime_version(ort) < FIXED else path
            session = ort.InferenceSession(model, settled, providers=[provider], enable_fallback=0)
        else:
            session = _open_on_gpu(path, options, provider, settings)
    runner = OnnxRunner(session, path)
    if options.batch is not None:
        for spec in runner.inputs:
            if spec.shape[:1] != (options.batch,):
                raise Unsupported(
                    f"cannot fix the batch of {path} to {options.batch}: its input '{spec.name}' has the shape {_text(spec.shape)}",
                    "use the model's batch, or export it again with a free first axis named 'batch'",
                )
    return runner


def _provider(device: str) -> tuple[str, dict[str, str]]:
    """Name and settings of the execution provider for a device."""
    if device == "cpu":
        return "CPUExecutionProvider", {}
    if match := re.fullmatch(r"cuda:([0-9]+)", device):
        return "CUDAExecutionProvider", {"device_id": match[1], "use_tf32": "0"}
    raise UsageError(f"{device!r} is not a device of ONNX Runtime", "devices: cpu, cuda:0, cuda:1, ...")


def _session_options(options: RunOptions) -> Any:
    session = ort.SessionOptions()
    session.log_severity_level = _FATAL  # errors are raised, so the log would only repeat them
    session.inter_op_num_threads = 1
    if options.threads is not None:
        session.intra_op_num_threads = options.threads
    if options.batch is not None:
        session.add_free_dimension_override_by_name("batch", options.batch)
    for name, length in options.axes.items():
        session.add_free_dimension_override_by_name(name, length)
    if options.profile is not None:
        session.enable_profiling = True
        session.profile_file_prefix = str(options.profile)
    if options.simulate_quantization:
        session.add_session_config_entry("session.disable_quant_qdq", "1")
    return session


def _open_on_gpu(path: Path, options: RunOptions, provider: str, settings: dict[str, str]) -> Any:
    """Open a session that runs every node on the provider. Raises Unsupported with the reason from ONNX Runtime's log."""
    session_options = _session_options(options)
    session_options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    reason = ""
    with native_log() as log:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the log repeats the printed messages that matter
                ort.preload_dlls()  # CUDA's libraries from NVIDIA's Python packages
            session = ort.InferenceSession(path, session_options, providers=[(provider, settings)], enable_fallback=0)
            found = session.get_providers()[0]
            if found != provider:
                reason = f"it would run on {found}"
        except (native.Fail, native.EPFail, native.RuntimeException, native.NotImplemented, RuntimeError) as error:
            reason = plain(str(error))
    if reason:
        logged = [line for line in log if "[E:onnxruntime" in line]
        raise Unsupported(
            f"cannot run {path} on {options.device}: {plain(logged[-1]) if logged else reason}",
            'ask for --device cpu; if CUDA libraries are what is missing: pip install "onnxruntime-gpu[cuda,cudnn]"',
        )
    pass_on(log)
    return session


def _weight_only(path: Path) -> bool:
    """Whether a model has INT8 weights and float arithmetic: it contains DequantizeLinear but no QuantizeLinear."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # op_type in onnx.proto: field 4, length, text
        return content.find(b'"\x10DequantizeLinear') >= 0 and content.find(b'"\x0eQuantizeLinear') < 0


@contextmanager
def _mapped(action: str, model_errors: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Convert errors of ONNX Runtime; ``model_errors`` become InvalidFile."""
    try:
        yield
    except TlxError:
        raise
    except native.NotImplemented as error:
        why, hint = refusal(plain(str(error)), ort.__version__)
        raise Unsupported(f"cannot {action}: {why}", hint) from None
    except _ALL_ERRORS as error:
        kind = InvalidFile if isinstance(error, model_errors) else StepFailed
        why, hint = refusal(plain(str(error)), ort.__version__)
        raise kind(f"cannot {action}: {why}", hint) from None


def _specs(tensors: list[Any], path: Path) -> tuple[TensorSpec, ...]:
    specs = []
    for tensor in tensors:
        if tensor.type not in _DTYPES:
            known = ", ".join(sorted(set(_DTYPES.values())))
            raise Unsupported(f"'{printable(tensor.name)}' of {path} is a {tensor.type}; expected a tensor of {known}")
        # name an axis without length and name by its position
        shape = [axis if isinstance(axis, int | str) else f"{tensor.name}.{i}" for i, axis in enumerate(tensor.shape)]
        specs.append(TensorSpec.model_validate({"name": tensor.name, "dtype": _DTYPES[tensor.type], "shape": shape}))
    return tuple(specs)


def _text(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


class OnnxRunner:
    """An open session; see :class:`tlexport.ports.Runner`."""

    def __init__(self, session: Any, path: Path) -> None:
        self._session = session
        self._path = path
        self.inputs = _specs(session.get_inputs(), path)
        self.outputs = _specs(session.get_outputs(), path)
        self.provider: str = session.get_providers()[0]
        self._names = [spec.name for spec in self.outputs]
        self._action = f"run {path}"
        self._accepted: dict[str, tuple[Any, tuple[int, ...]]] | None = None  # dtype and shape of each input in the last run

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs.

        Args:
            feeds: an array for each of ``inputs``, of its dtype and shape, in host memory.

        Returns:
            An array for each of ``outputs``, in host memory.

        Raises:
            UsageError: a missing or unknown input, or one of another dtype or shape.
            StepFailed: ONNX Runtime could not compute it.
        """
        accepted = {name: (array.dtype, array.shape) for name, array in feeds.items()}
        if accepted != self._accepted:  # skip the check for unchanged shapes: it takes as long as a tiny model
            self._check(feeds)
            self._accepted = accepted
        try:
            found = self._session.run(self._names, feeds)
        except _ALL_ERRORS:
            with _mapped(self._action):  # entered only on errors, because entering is slow
                raise
        return dict(zip(self._names, found, strict=True))

    def _check(self, feeds: Mapping[str, Array]) -> None:
        known = [spec.name for spec in self.inputs]
        for name in feeds:
            if name not in known:
                raise UsageError(f"{self._path} has no input '{name}'{nearest(name, known)}", f"its inputs: {', '.join(known)}")
        for spec in self.inputs:
            array = feeds.get(spec.name)
            if array is None or array.dtype != spec.dtype or not _fits(array.shape, spec.shape):
                found = "nothing" if array is None else f"{array.dtype} {_text(array.shape)}"
                raise UsageError(f"{self._path}: its input '{spec.name}' takes {spec.dtype} {_text(spec.shape)}; found {found}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self._session  # its threads and memory are released with it


def _fits(found: tuple[int, ...], expected: tuple[int | str, ...]) -> bool:
    return len(found) == len(expected) and all(isinstance(b, str) or a == b for a, b in zip(found, expected, strict=True))
