"""NVIDIA's CUDA runtime through ctypes: memory, streams, events and graphs, with no package to install.

It calls libcudart's C interface; comments name calls that some versions lack.

Python 3.6 syntax: this file is copied into bundles unchanged.
"""

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DeviceError, MissingDependency, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# newest first, as JetPack 7, 6, 5 and 4 and CUDA's own packages name it; the last is the link that a development package makes
LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2", "libcudart.so")
FOLDER = "/usr/local/cuda/lib64"  # used if the linker does not find it
PACKAGED = "nvidia/*/lib/libcudart.so.*"  # within a folder of sys.path: NVIDIA's Python packages, which TensorRT's depend on

# driver_types.h: cudaError, cudaMemcpyKind, cudaStreamCaptureMode, cudaDeviceAttr
_INSUFFICIENT_DRIVER = 35
_NO_GPU = (_INSUFFICIENT_DRIVER, 100)  # 100: the driver finds no device
_TO_DEVICE, _TO_HOST = 1, 2
_CAPTURE_THREAD_LOCAL = 1
_MAJOR, _MINOR = 75, 76
_NAME_LENGTH = 256  # cudaDeviceProp begins with the name in every version; the rest differs between them
_PROPERTIES_SIZE = 16384  # far more than any version's struct


class Memory(NamedTuple):
    """Memory of a device in bytes, from ``cudaMemGetInfo``; on a Jetson, memory of the whole board."""

    free: int
    total: int


class Cuda:
    """The CUDA runtime of this machine. Handles and addresses are integers; the caller releases them.

    Args:
        library: libcudart, opened by ctypes. Use :func:`open_cuda`.
        name: what it was found as.
    """

    def __init__(self, library: "Any", name: str) -> None:
        self._library = library
        self.name = name
        self._error_text = library.cudaGetErrorString
        self._error_text.restype = ctypes.c_char_p
        self._error_text.argtypes = (ctypes.c_int,)

    # --- the device ---

    def device_count(self) -> int:
        """Number of GPUs. Raises DeviceError if the driver reports an error, including that there is no GPU."""
        return self._int("cudaGetDeviceCount")

    def use(self, device: int) -> None:
        """Select the current GPU of this thread. Raises Unsupported if it does not exist."""
        count = self.device_count()
        if not 0 <= device < count:
            raise Unsupported(f"there is no GPU cuda:{device}: CUDA finds {count} here", "name one that is there, such as --device cuda:0")
        self._call("cudaSetDevice", ctypes.c_int(device))

    def device_name(self, device: int) -> str:
        """Name of a GPU: "Orin", "NVIDIA H200", ..."""
        properties = ctypes.create_string_buffer(_PROPERTIES_SIZE)
        self._call("cudaGetDeviceProperties", properties, ctypes.c_int(device))
        return properties.raw[:_NAME_LENGTH].split(b"\0")[0].decode("utf-8", "replace")

    def compute_capability(self, device: int) -> str:
        """Compute capability of a GPU: "8.7" is Orin."""
        values = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(device))
            values.append(value.value)
        return f"{values[0]}.{values[1]}"

    def driver_version(self) -> str:
        """The newest CUDA version that the driver supports: "12.6"."""
        return _version(self._int("cudaDriverGetVersion"))

    def runtime_version(self) -> str:
        """CUDA version of libcudart: "12.6"."""
        return _version(self._int("cudaRuntimeGetVersion"))

    def memory(self) -> Memory:
        """Free and total bytes of the current GPU."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return Memory(free.value, total.value)

    # --- memory ---

    def allocate(self, size: int) -> int:
        """Allocate ``size`` bytes on the current GPU; returns the address."""
        return self._handle("cudaMalloc", ctypes.c_size_t(size))

    def free(self, address: int) -> None:
        """Release the result of :meth:`allocate`."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def allocate_pinned(self, size: int) -> int:
        """Allocate ``size`` bytes of pinned host memory, for asynchronous copies; returns the address."""
        return self._handle("cudaHostAlloc", ctypes.c_size_t(size), ctypes.c_uint(0))

    def free_pinned(self, address: int) -> None:
        """Release the result of :meth:`allocate_pinned`."""
        self._call("cudaFreeHost", ctypes.c_void_p(address))

    def to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy ``size`` bytes from pinned host memory to the GPU, when the stream comes to it."""
        self._copy(target, source, size, _TO_DEVICE, stream)

    def to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy ``size`` bytes from the GPU to pinned host memory, when the stream comes to it."""
        self._copy(target, source, size, _TO_HOST, stream)

    # --- streams and events ---

    def stream(self) -> int:
        """Create a stream."""
        return self._handle("cudaStreamCreate")

    def synchronize(self, stream: int) -> None:
        """Wait until a stream is idle. Raises DeviceError with any error of the GPU."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def destroy_stream(self, stream: int) -> None:
        """Release the result of :meth:`stream`."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def event(self) -> int:
        """Create an event, which records a time in a stream."""
        return self._handle("cudaEventCreate")

    def record(self, event: int, stream: int) -> None:
        """Record an event in a stream."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events that have both been reached; CUDA's documentation gives 0.5 microseconds as resolution."""
        value = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(value), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return float(value.value)

    def destroy_event(self, event: int) -> None:
        """Release the result of :meth:`event`."""
        self._call("cudaEventDestroy", ctypes.c_void_p(event))

    # --- graphs ---

    def begin_capture(self, stream: int) -> None:
        """Start to capture the work of a stream instead of running it."""
        self._call("cudaStreamBeginCapture", ctypes.c_void_p(stream), ctypes.c_int(_CAPTURE_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """End the capture and return the graph."""
        graph = ctypes.c_void_p()
        self._call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        return graph.value or 0

    def instantiate(self, graph: int) -> int:
        """Instantiate a graph for launching."""
        if hasattr(self._library, "cudaGraphInstantiateWithFlags"):  # from 11.4 on, and the same in every version since
            return self._handle("cudaGraphInstantiateWithFlags", ctypes.c_void_p(graph), ctypes.c_ulonglong(0))
        # before, cudaGraphInstantiate also takes a node and a text to report errors with; CUDA 12 gave its name another meaning
        return self._handle("cudaGraphInstantiate", ctypes.c_void_p(graph), None, None, ctypes.c_size_t(0))

    def launch(self, executable: int, stream: int) -> None:
        """Run an instantiated graph in a stream."""
        self._call("cudaGraphLaunch", ctypes.c_void_p(executable), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        """Release the result of :meth:`end_capture`."""
        self._call("cudaGraphDestroy", ctypes.c_void_p(graph))

    def destroy_executable(self, executable: int) -> None:
        """Release the result of :meth:`instantiate`."""
        self._call("cudaGraphExecDestroy", ctypes.c_void_p(executable))

    # --- calling ---

    def _call(self, function: str, *arguments: "Any") -> None:
        """Raise DeviceError for a status other than 0."""
        code = int(self._find(function)(*arguments))
        if code != 0:
            self._find("cudaGetLastError")()  # otherwise a later successful call would return this error
            text = self._error_text(code).decode("utf-8", "replace")
            kind = Unsupported if code in _NO_GPU else DeviceError
            raise kind(f"{function} failed: {text} (CUDA error {code}, {self.name})", "see what the driver says: sudo dmesg | tail")

    def _find(self, function: str) -> "Any":
        try:
            return getattr(self._library, function)
        except AttributeError:
            raise Unsupported(f"{self.name} has no {function}; CUDA 10.2 or newer was expected") from None

    def _int(self, function: str) -> int:
        value = ctypes.c_int()
        self._call(function, ctypes.byref(value))
        return value.value

    def _handle(self, function: str, *arguments: "Any") -> int:
        value = ctypes.c_void_p()
        self._call(function, ctypes.byref(value), *arguments)
        return value.value or 0

    def _copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        arguments = (ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size), ctypes.c_int(kind), ctypes.c_void_p(stream))
        self._call("cudaMemcpyAsync", *arguments)


def _version(number: int) -> str:
    """12060 is 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"


def open_cuda(names: "Sequence[str]" = ()) -> Cuda:
    """Find and open the newest libcudart that the driver supports.

    Args:
        names: file names or paths to try, in this order; by default LIBRARIES as the linker finds them, then in FOLDER, then PACKAGED.

    Raises:
        MissingDependency: libcudart was not found.
        DeviceError: the library does not work here, with CUDA's message.
    """
    packaged = [str(path) for folder in sys.path for path in sorted(Path(folder).glob(PACKAGED), reverse=True)]
    tried = list(names) or [*LIBRARIES, *(str(Path(FOLDER, name)) for name in LIBRARIES), *packaged]
    too_new = None
    for name in tried:
        try:
            cuda = Cuda(ctypes.CDLL(name), name)
        except (OSError, AttributeError):  # not there, for another processor, or not libcudart
            continue
        if cuda._library.cudaGetDeviceCount(ctypes.byref(ctypes.c_int())) != _INSUFFICIENT_DRIVER:
            return cuda
        too_new = cuda
    if too_new is not None:
        too_new.device_count()  # raises with CUDA's own text
    raise MissingDependency(
        f"the CUDA runtime library was not found: none of {', '.join(names or LIBRARIES)} can be loaded",
        "on a Jetson: sudo apt install nvidia-jetpack; elsewhere install NVIDIA's CUDA, or run on the CPU with --device cpu",
    )
