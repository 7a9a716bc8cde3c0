"""An open engine: runs it with TensorRT and times it with CUDA events. Supports TensorRT 8.5 to 11.

Python 3.6 syntax: this file is copied into bundles unchanged.
"""

import contextlib
import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tensorrt as trt

from ..errors import DeviceError, InvalidFile, Unsupported
from .cuda import Cuda, open_cuda
from .engine_layers import EngineLayers, read_layers
from .engine_tensors import check_feeds, read_dtype, read_input_tensor, read_output_tensor, refuse_other_version
from .engine_times import EngineLayerTime, RunTimes
from .tensorrt_log import TensorrtLog, explained, failed, made

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, SupportsFloat

    import numpy.typing as npt

    Array = npt.NDArray[Any]


class _Buffer(NamedTuple):
    """A tensor in both memories. ``host`` is a view of pinned memory that is freed with the session."""

    host: "Array"
    pinned: int
    device: int


class _Profiler(trt.IProfiler):
    """Collects TensorRT's layer times."""

    def __init__(self) -> None:
        trt.IProfiler.__init__(self)  # pybind11 refuses an object whose own constructor was not called
        self.times: "dict[str, list[float]]" = {}

    def report_layer_time(self, layer_name: str, ms: "SupportsFloat") -> None:
        """Called by TensorRT for each layer of each run."""
        self.times.setdefault(layer_name, []).append(float(ms))


class Session:
    """An open engine on one GPU. Not thread-safe. See :func:`tlexport.device.runtimes.engine.open_engine`.

    Attributes:
        provider: always "tensorrt".
        tensorrt: version of TensorRT, "10.3.0".
        cuda_graph: whether a run is one launch of a CUDA graph.
        copies: whether :meth:`time_run` counts the copies between host and device.
        inputs: the input tensors.
        outputs: the output tensors, with their shapes for the usual input shapes.
        batch: smallest and largest number of images in one run.
    """

    provider = "tensorrt"

    def __init__(self, engine_path: Path, device: int, cuda_graph: bool, copies: bool) -> None:
        self.path = engine_path
        self.tensorrt = str(trt.__version__)
        self.cuda_graph = cuda_graph
        self.copies = copies
        self._log = TensorrtLog()
        self._executable = 0  # of the CUDA graph; 0: none
        self._shapes: "dict[str, tuple[int, ...]]" = {}  # input shapes of the current setup
        self._buffers: "dict[str, _Buffer]" = {}
        self._handles = contextlib.ExitStack()  # released with the session
        self._held = contextlib.ExitStack()  # released when the shapes change
        refuse_other_version(engine_path)
        try:
            with explained(f"open {engine_path}", self._log):
                self._open(device)
        except BaseException:
            self.close()
            raise

    def _open(self, device: int) -> None:
        self._cuda: Cuda = open_cuda()
        self._cuda.use(device)
        self._stream = self._cuda.stream()
        self._handles.callback(self._cuda.destroy_stream, self._stream)
        self._events = []
        for _ in range(4):  # events around the steps: to the device, compute, to the host
            self._events.append(self._cuda.event())
            self._handles.callback(self._cuda.destroy_event, self._events[-1])
        action = f"open {self.path}"
        self._runtime = made(trt.Runtime(self._log), action, self._log)
        self._engine = made(self._runtime.deserialize_cuda_engine(self.path.read_bytes()), action, self._log)
        self._context = made(self._engine.create_execution_context(), action, self._log)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        going_in = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = tuple(read_input_tensor(self._engine, name, self.path) for name in going_in)
        if not self.inputs:
            raise InvalidFile(f"{self.path} has no inputs; an engine of a classifier was expected")
        self._names_out = [name for name in names if name not in going_in]
        self._set_up({tensor.name: tensor.usual for tensor in self.inputs})
        self.outputs = tuple(read_output_tensor(self._engine, name, self._buffers[name].host.shape, self.path) for name in self._names_out)
        self.batch = (self.inputs[0].least[0], self.inputs[0].most[0])

    # --- running ---

    def run(self, pixels: "Array") -> "Array":
        """Classify images.

        Args:
            pixels: (image, height, width, channel) of the input's dtype, 0..255.

        Returns:
            Probabilities, float32 (image, class).

        Raises:
            InvalidFile: the engine does not have one input and one output.
            Unsupported: shape or dtype of the pixels does not fit the engine.
            DeviceError: the run failed; the message ends with TensorRT's log.
        """
        if len(self.inputs) != 1 or len(self._names_out) != 1:
            raise InvalidFile(f"{self.path} has {len(self.inputs)} inputs and {len(self._names_out)} outputs; one of each was expected")
        answer = self.compute({self.inputs[0].name: pixels})[self._names_out[0]]
        return answer.astype(np.float32, copy=False)

    def compute(self, feeds: "Mapping[str, Array]") -> "dict[str, Array]":
        """Run once, with one array for each input, of its dtype. Returns a new array for each output. Raises as :meth:`run`."""
        check_feeds(self.inputs, feeds, self.path)
        with explained(f"run {self.path}", self._log):
            shapes = {name: tuple(array.shape) for name, array in feeds.items()}
            if shapes != self._shapes:
                self._set_up(shapes)
            for name, array in feeds.items():
                self._buffers[name].host[...] = array
            self._copy_in()
            self._compute()
            self._copy_out()
            self._cuda.synchronize(self._stream)
        return {name: self._buffers[name].host.copy() for name in self._names_out}

    def time_run(self) -> RunTimes:
        """Repeat the last run (with zeros before the first one), and time it with CUDA events.

        With ``copies``, it includes the copies between host and device; otherwise they are omitted.
        """
        before, start, end, behind = self._events
        cuda, stream = self._cuda, self._stream
        with explained(f"run {self.path}", self._log):
            if self.copies:
                cuda.record(before, stream)
                self._copy_in()
            cuda.record(start, stream)
            self._compute()
            cuda.record(end, stream)
            if self.copies:
                self._copy_out()
                cuda.record(behind, stream)
            cuda.synchronize(stream)
            compute = cuda.elapsed_ms(start, end)
            if not self.copies:
                return RunTimes(compute, compute, 0.0, 0.0)
            return RunTimes(cuda.elapsed_ms(before, behind), compute, cuda.elapsed_ms(before, start), cuda.elapsed_ms(end, behind))

    def layers(self) -> EngineLayers:
        """The engine's layers with their types, as optimized by TensorRT."""
        action = f"describe the layers of {self.path}"
        with explained(action, self._log):
            inspector = made(self._engine.create_engine_inspector(), action, self._log)
            inspector.execution_context = self._context  # it requires known shapes
            return read_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def layer_times(self, runs: int = 10) -> "tuple[EngineLayerTime, ...]":
        """Median time of each layer in the engine's order, over ``runs`` repetitions of the last run.

        The sum exceeds the time of a run, because the profiler waits between layers. Uses a separate context without a CUDA graph.
        """
        action = f"time the layers of {self.path}"
        with explained(action, self._log):
            profiler = _Profiler()
            context = made(self._engine.create_execution_context(), action, self._log)
            context.profiler = profiler
            self._bind(context)
            for _ in range(runs):
                self._enqueue(context)
                self._cuda.synchronize(self._stream)
            del context  # released before its profiler
            return tuple(EngineLayerTime(name, float(np.median(times))) for name, times in profiler.times.items())

    def close(self) -> None:
        """Release all resources. The session is unusable afterwards."""
        self._buffers = {}
        self._held.close()
        for name in ("_context", "_engine", "_runtime"):  # in this order: each depends on the next
            self.__dict__.pop(name, None)
        self._handles.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- setup for given shapes ---

    def _set_up(self, shapes: "Mapping[str, tuple[int, ...]]") -> None:
        """Memory, addresses and the CUDA graph for inputs of these shapes."""
        self._held.close()
        self._shapes, self._buffers, self._executable = {}, {}, 0
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise failed(f"take the shape {shape} for the input {name!r} of {self.path}", self._log)
        for name in (*shapes, *self._names_out):
            self._buffers[name] = self._buffer(name)
        self._bind(self._context, set_shapes=False)
        # run once without a graph: TensorRT's deferred initialisation must not be captured
        self._copy_in()
        self._enqueue(self._context)
        self._cuda.synchronize(self._stream)
        if self.cuda_graph:
            self._executable = self._capture()
        self._shapes = dict(shapes)

    def _buffer(self, name: str) -> _Buffer:
        shape = tuple(self._context.get_tensor_shape(name))
        if min(shape, default=1) < 1:
            raise Unsupported(f"{self.path}: the shape of its tensor {name!r} is {shape}; a shape known before the run was expected")
        dtype = np.dtype(read_dtype(self._engine, name, self.path))
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        device = self._cuda.allocate(size)
        self._held.callback(self._cuda.free, device)
        pinned = self._cuda.allocate_pinned(size)
        self._held.callback(self._cuda.free_pinned, pinned)
        host: "Array" = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(pinned)).view(dtype).reshape(shape)
        host[...] = 0
        return _Buffer(host, pinned, device)

    def _bind(self, context: "trt.IExecutionContext", set_shapes: bool = True) -> None:
        """Set the addresses of the tensors in a context."""
        for name, buffer in self._buffers.items():
            shaped = not set_shapes or name in self._names_out or context.set_input_shape(name, tuple(buffer.host.shape))
            if not shaped or not context.set_tensor_address(name, buffer.device):
                raise failed(f"take the tensor {name!r} of {self.path}", self._log)

    def _capture(self) -> int:
        """Capture the network as a CUDA graph, ready to launch."""
        cuda, stream = self._cuda, self._stream
        cuda.begin_capture(stream)
        try:
            self._enqueue(self._context)
        except DeviceError as error:
            with contextlib.suppress(DeviceError):
                cuda.destroy_graph(cuda.end_capture(stream))
            raise self._not_captured(error) from None
        try:
            graph = cuda.end_capture(stream)
            self._held.callback(cuda.destroy_graph, graph)
            executable = cuda.instantiate(graph)
        except DeviceError as error:
            raise self._not_captured(error) from None
        self._held.callback(cuda.destroy_executable, executable)
        return executable

    def _not_captured(self, error: DeviceError) -> Unsupported:
        return Unsupported(f"{self.path} cannot be captured as a CUDA graph: {error.message}", "open it with cuda_graph=False")

    # --- steps of a run ---

    def _copy_in(self) -> None:
        for tensor in self.inputs:
            buffer = self._buffers[tensor.name]
            self._cuda.to_device(buffer.device, buffer.pinned, buffer.host.nbytes, self._stream)

    def _compute(self) -> None:
        if self._executable:
            self._cuda.launch(self._executable, self._stream)
        else:
            self._enqueue(self._context)

    def _copy_out(self) -> None:
        for name in self._names_out:
            buffer = self._buffers[name]
            self._cuda.to_host(buffer.pinned, buffer.device, buffer.host.nbytes, self._stream)

    def _enqueue(self, context: "trt.IExecutionContext") -> None:
        if not context.execute_async_v3(self._stream):
            raise failed(f"run {self.path}", self._log)
