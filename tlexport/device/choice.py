"""Choose the runtime that runs a bundle on this device. Every choice comes with its reason."""

import importlib
from typing import TYPE_CHECKING, NamedTuple

from .errors import InvalidFile, MissingDependency, Unsupported
from .runtimes import onnx_session

if TYPE_CHECKING:
    from typing import Tuple

    from .manifest import Bundle

RUNTIMES = ("auto", "onnxruntime", "tensorrt", "trtexec")
OLDEST_BINDINGS = (8, 5)  # TensorRT; older versions address tensors by number


class Choice(NamedTuple):
    """A runtime, a device, and the reason for them."""

    runtime: str  # "onnxruntime", "tensorrt" or "trtexec"
    device: str  # "cpu", "cuda:N", ...
    reason: str


def choose(bundle: "Bundle", runtime: str = "auto", device: str = "auto") -> Choice:
    """Choose the runtime and the device for the models of a bundle.

    Args:
        bundle: the bundle; "auto" means the runtime of its target.
        runtime: "auto", "onnxruntime", "tensorrt" or "trtexec". A named runtime is never replaced by another.
        device: "auto", "cpu", "cuda[:N]", and for ONNX Runtime "tensorrt[:N]".

    Raises:
        InvalidFile: an unknown runtime or device.
        Unsupported: "auto" on a device without the target's runtime, or a runtime that does not support the device.
    """
    if runtime not in RUNTIMES:
        raise InvalidFile(f"{runtime!r} is not a runtime", f"runtimes: {', '.join(RUNTIMES)}")
    target = bundle.data["target"]
    if runtime == "onnxruntime" or (runtime == "auto" and not bundle.for_tensorrt):
        wanted = bundle.data["profile"].get("device") or "cpu"  # of the target
        where = wanted if device == "auto" else device
        onnx_session.split_device(where)
        reason = f"the bundle is for {target}" if runtime == "auto" else "asked for"
        if runtime != "auto" and bundle.for_tensorrt:
            reason += f"; the bundle is for TensorRT on {target}; times measured here do not apply to it"
        return Choice("onnxruntime", where, reason)
    if device == "cpu":
        raise Unsupported("TensorRT runs on NVIDIA GPUs, not on the CPU", "leave out --device, or: --runtime onnxruntime --device cpu")
    if device.startswith("tensorrt"):
        raise Unsupported(f"{device} is a device of ONNX Runtime", f"ask for --runtime onnxruntime --device {device}")
    gpu = "cuda:0" if device == "auto" else device
    split(gpu)
    no_bindings, no_trtexec = why_no_bindings(), why_no_trtexec()
    if runtime != "auto":
        return Choice(runtime, gpu, "asked for")
    if not no_bindings:
        return Choice("tensorrt", gpu, f"the bundle is for {target}, and TensorRT's Python bindings are here")
    if not no_trtexec:
        return Choice("trtexec", gpu, f"the bundle is for {target}; {no_bindings}, so trtexec runs the engine")
    raise Unsupported(
        f"the bundle is for {target}, where TensorRT runs it; here {no_bindings}, and {no_trtexec}",
        "on the board: apt install tensorrt python3-libnvinfer; to compute it elsewhere, on the CPU and slower: --runtime onnxruntime",
    )


def why_no_bindings() -> str:
    """Reason why TensorRT's Python bindings cannot be used; empty if they can."""
    try:
        module = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:  # OSError: a missing shared library
        return f"TensorRT's Python bindings cannot be imported ({error})"
    version = str(getattr(module, "__version__", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_BINDINGS:
        oldest = ".".join(str(part) for part in OLDEST_BINDINGS)
        return f"TensorRT's Python bindings are {version}, older than {oldest}"
    return ""


def why_no_trtexec() -> str:
    """Reason why trtexec cannot be used; empty if it can."""
    from .runtimes import trtexec_program

    try:
        trtexec_program.find_trtexec()
    except MissingDependency as error:
        return str(error)
    return ""


def better(bundle: "Bundle", choice: Choice) -> str:
    """A possibly faster choice on this device and how to try it; empty if none is known."""
    if choice.runtime != "onnxruntime" or choice.device != "cpu":
        return ""
    here = onnx_session.load().get_available_providers()
    gpu = [name for name in ("TensorrtExecutionProvider", "CUDAExecutionProvider") if name in here]
    if gpu:
        return f"this onnxruntime is also built with {' and '.join(gpu)}: --device cuda tries it"
    return ""


def split(device: str) -> "Tuple[str, int]":
    """Split ``"cuda:1"`` into ``("cuda", 1)``. Raises InvalidFile if the device is not a GPU."""
    name, index = onnx_session.split_device(device)
    if name != "cuda":
        raise InvalidFile(f"{device!r} is not a GPU", "devices: cuda, cuda:N")
    return name, index
