"""Opens a model on the requested provider of ONNX Runtime 1.10 (the last for Python 3.6) or newer, or reports why it cannot.

ONNX Runtime itself falls back to the CPU if a GPU provider cannot be loaded. Here that is an error.
"""

import contextlib
import io
import mmap
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DeviceError, InvalidFile, MissingDependency, Unsupported
from .half_rounding import FIXED, rounding
from .native_log import native_log, pass_on, plain
from .onnx_versions import install_hint

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Dict, List, Optional, Tuple, Type

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

OLDEST = (1, 10)
_TELLS_FALLBACK = (1, 16)  # first version with the option to refuse a session that would partly run on the CPU
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_SETTINGS = {
    "cpu": {},
    "cuda": {"use_tf32": "0"},  # so that FP32 means FP32; unknown to versions before 1.18
    "tensorrt": {"trt_fp16_enable": "1", "trt_int8_enable": "1"},  # allowed; the graph's types and Q/DQ pairs define which layers use them
}  # type: Dict[str, Dict[str, str]]
_TF32_OPTION = (1, 18)
_LOG_FATAL = 4  # errors are raised, so the log would only repeat them
_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
_RAISED = (  # errors of the C++ library; their only common base is Exception, and some versions lack some of them
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
    "EPFail",
    "EngineError",
)


def load() -> "Any":
    """The module onnxruntime. Raises MissingDependency if it is missing, does not load, or is older than 1.10."""
    with native_log() as log:  # the GPU build searches for graphics cards during the import, and warns about unknown ones
        try:
            import onnxruntime
        except (ImportError, OSError) as error:
            reason = str(error)
            onnxruntime = None
    pass_on(log)
    if onnxruntime is None:
        raise MissingDependency(f"onnxruntime cannot be imported: {reason}", install_hint())
    if onnxruntime_version(onnxruntime) < OLDEST:
        oldest = ".".join(str(part) for part in OLDEST)
        raise MissingDependency(
            f"onnxruntime {onnxruntime.__version__} is installed; {oldest} is the oldest supported version",
            install_hint(installed=onnxruntime.__version__),
        )
    onnxruntime.set_default_logger_severity(3)  # errors
    return onnxruntime


def onnxruntime_version(onnxruntime: "Any") -> "Tuple[int, ...]":
    """Major and minor version."""
    return tuple(int(part) for part in re.findall(r"\d+", onnxruntime.__version__)[:2])


def split_device(device: str) -> "Tuple[str, int]":
    """``cuda:1`` into ``("cuda", 1)``. Raises InvalidFile if it is not a device of ONNX Runtime."""
    match = re.match(r"^(cpu|cuda|tensorrt)(?::([0-9]+))?$", device)
    if match is None or (match.group(1) == "cpu" and match.group(2)):
        raise InvalidFile(f"{device!r} is not a device of ONNX Runtime", "devices: cpu, cuda, cuda:N, tensorrt, tensorrt:N")
    return match.group(1), int(match.group(2) or 0)


def open_session(
    path: "str | Path", device: str = "cpu", threads: "Optional[int]" = None, batch: "Optional[int]" = None, simulate: bool = False
) -> "OnnxSession":
    """Open an ONNX file whose weights are inside it.

    Args:
        path: the file.
        device: "cpu", "cuda[:N]" or "tensorrt[:N]" (ONNX Runtime's TensorRT provider).
        threads: CPU threads; None: ONNX Runtime's default, one for each physical core.
        batch: fixes the batch, so that the runtime can plan for it; None: any.
        simulate: compute Q/DQ pairs in float, without fusion: for INT8 graphs made for TensorRT.

    Raises:
        MissingDependency: onnxruntime is missing or too old.
        Unsupported: the device is unavailable, or the model requires a newer version.
        InvalidFile: not an ONNX file, damaged, or with its weights in other files.
    """
    kind, index = split_device(device)
    provider = _PROVIDERS[kind]
    ort = load()
    content = _look_into(Path(path))
    if provider not in ort.get_available_providers():
        raise Unsupported(
            f"cannot run {path} on {device}: this build of onnxruntime {ort.__version__} has no {provider}; "
            f"it has {', '.join(ort.get_available_providers())}",
            "ask for --device cpu, or install a build for this GPU (Jetson: NVIDIA's own wheels)",
        )
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    if batch is not None:
        options.add_free_dimension_override_by_name("batch", batch)
    if simulate or content.weight_only:  # otherwise the weights are dequantized in every run
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    notes = []
    if kind != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if onnxruntime_version(ort) < _TELLS_FALLBACK:
            notes.append(f"onnxruntime {ort.__version__} does not report whether some nodes run on the CPU; 1.16 and newer do")
    settings = dict(_SETTINGS[kind], device_id=str(index)) if kind != "cpu" else {}
    if onnxruntime_version(ort) < _TF32_OPTION:
        settings.pop("use_tf32", None)
    model = rounding(path) if kind == "cpu" and onnxruntime_version(ort) < FIXED else str(path)
    session = _create(ort, str(path), model, options, provider, settings, device)
    return OnnxSession(ort, session, str(path), provider, notes)


def _create(ort: "Any", path: str, model: "str | bytes", options: "Any", provider: str, settings: "Dict[str, str]", device: str) -> "Any":
    """A session on one provider, without fallback."""
    reason = ""
    with native_log() as log:
        try:
            if device != "cpu" and hasattr(ort, "preload_dlls"):
                with contextlib.redirect_stdout(io.StringIO()):  # the log repeats the printed messages that matter
                    ort.preload_dlls()  # CUDA's libraries from NVIDIA's Python packages
            session = ort.InferenceSession(model, options, providers=[provider], provider_options=[settings], enable_fallback=0)
            found = session.get_providers()[0]
            if found != provider:
                reason = f"it would run on {found}"
        except _raised() as error:
            reason = plain(str(error))
    if not reason:
        pass_on(log)
        return session
    if device == "cpu":
        unknown = re.search(r"opset|IR.?version|Could not find an implementation|NOT_IMPLEMENTED", reason)
        kind = Unsupported if unknown else InvalidFile
        hint = install_hint(installed=str(ort.__version__)) if unknown else "copy the bundle again"
        raise kind(f"onnxruntime {ort.__version__} cannot open {path}: {reason}", hint)
    logged = [plain(line) for line in log if "[E:onnxruntime" in line]
    raise Unsupported(f"cannot run {path} on {device}: {logged[-1] if logged else reason}", "ask for --device cpu")


def _raised() -> "Tuple[Type[Exception], ...]":
    from onnxruntime.capi import onnxruntime_pybind11_state as native

    return (ValueError, RuntimeError, *(getattr(native, name) for name in _RAISED if hasattr(native, name)))


class _Content:
    """Facts found in the bytes of an ONNX file."""

    def __init__(self, weight_only: bool) -> None:
        self.weight_only = weight_only


def _look_into(path: Path) -> _Content:
    """Inspect a file without parsing ONNX. Raises InvalidFile if it is missing, empty, or has weights in other files."""
    if not path.is_file():
        raise InvalidFile(f"{path} {'is not a file' if path.exists() else 'does not exist'}; an ONNX file was expected")
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # encoding of onnx.proto: a reference to another file has the key "location"; a node's operator is field 4
            external = content.find(b"\x0a\x08location\x12") >= 0
            weight_only = content.find(b'"\x10DequantizeLinear') >= 0 and content.find(b'"\x0eQuantizeLinear') < 0
    except ValueError:
        raise InvalidFile(f"{path} is empty; an ONNX file was expected", "copy the bundle again") from None
    except OSError as error:
        raise InvalidFile(f"{path} cannot be read: {error.strerror or error}") from None
    if external:  # ONNX Runtime would open those files at any path, and the file's hash would not cover the weights
        raise InvalidFile(f"{path} keeps its weights in other files (ONNX external data); a single file was expected")
    return _Content(weight_only)


class OnnxSession:
    """An open model: one image input, one output of probabilities."""

    def __init__(self, ort: "Any", session: "Any", path: str, provider: str, notes: "List[str]") -> None:
        self.provider = provider
        self.notes = notes
        self.runtime = f"onnxruntime {ort.__version__}"
        self.tensors = [_tensor(item) for item in [*session.get_inputs(), *session.get_outputs()]]
        self._session = session
        self._path = path
        self._input: str = session.get_inputs()[0].name
        self._output: List[str] = [session.get_outputs()[0].name]
        self._raised = _raised()

    def run(self, pixels: "Array") -> "npt.NDArray[np.float32]":
        """Probabilities float32 (image, class) of pixels (image, height, width, channel), of the input's dtype, 0..255.

        Raises:
            DeviceError: ONNX Runtime could not compute it.
        """
        try:
            [probabilities] = self._session.run(self._output, {self._input: pixels})
        except self._raised as error:
            raise DeviceError(f"{self.runtime} cannot run {self._path}: {plain(str(error))}") from None
        return probabilities  # type: ignore[no-any-return]

    def close(self) -> None:
        """Release threads and memory."""
        self._session = None

    def __enter__(self) -> "OnnxSession":
        return self

    def __exit__(self, kind: "Optional[Type[BaseException]]", error: "Optional[BaseException]", trace: "Optional[TracebackType]") -> None:
        self.close()


def _tensor(item: "Any") -> "Dict[str, Any]":
    """Name, dtype and shape of an input or output, in the manifest's form."""
    dtype = _DTYPES.get(item.type) or item.type[len("tensor(") : -1]
    return {"name": item.name, "dtype": dtype, "shape": list(item.shape)}
