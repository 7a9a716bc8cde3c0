"""CUDA through ctypes, with a compiled stand-in for its runtime: calls, order of execution, errors."""

from __future__ import annotations

import ast
import ctypes
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ROOT
from tensorrt_api.bindings import NotHere, download
from tensorrt_api.cudart import COMPILER, Device, compile_cudart

import tlexport.device.runtimes.cuda
from tlexport.device.errors import DeviceError, MissingDependency, Unsupported
from tlexport.device.runtimes.cuda import LIBRARIES, Cuda, open_cuda

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine to make the stand-in of CUDA's runtime with")
SIZE = 64


@pytest.fixture(scope="module", params=["newer", "10.2"])
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    flags = ("-DCUDA_10",) if request.param == "10.2" else ()
    return Device(compile_cudart(tmp_path_factory.mktemp("cuda") / "libcudart.so", *flags))


@pytest.fixture
def cuda(device: Device) -> Iterator[Cuda]:
    before = device.live
    cuda = open_cuda([str(device.path)])
    cuda.use(0)
    yield cuda
    assert device.live == before, "something was not given back"


class Room:
    """Memory on both sides, and a stream."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.device = cuda.allocate(SIZE)
        self.pinned = [cuda.allocate_pinned(SIZE) for _ in range(2)]
        self.stream = cuda.stream()

    def view(self, index: int) -> Any:
        return np.ctypeslib.as_array((ctypes.c_ubyte * SIZE).from_address(self.pinned[index]))

    def round_trip(self) -> None:
        self.cuda.to_device(self.device, self.pinned[0], SIZE, self.stream)
        self.cuda.to_host(self.pinned[1], self.device, SIZE, self.stream)

    def close(self) -> None:
        self.cuda.free(self.device)
        for address in self.pinned:
            self.cuda.free_pinned(address)
        self.cuda.destroy_stream(self.stream)


@pytest.fixture
def room(cuda: Cuda) -> Iterator[Room]:
    room = Room(cuda)
    yield room
    room.close()


def test_what_is_there(cuda: Cuda) -> None:
    assert (cuda.device_count(), cuda.device_name(0), cuda.device_name(1)) == (2, "Stand-in A", "Stand-in B")
    assert (cuda.compute_capability(1), cuda.driver_version(), cuda.runtime_version()) == ("8.7", "12.6", "11.4")
    assert cuda.memory() == (5 << 30, 8 << 30)


def test_bytes_go_there_and_come_back_when_one_waits(cuda: Cuda, room: Room) -> None:
    room.view(0)[:] = np.arange(SIZE)
    room.view(1)[:] = 0
    room.round_trip()
    assert not room.view(1).any()
    cuda.synchronize(room.stream)
    assert (room.view(1) == np.arange(SIZE)).all()


def test_events_measure_what_lies_between_them(device: Device, cuda: Cuda, room: Room) -> None:
    start, end = cuda.event(), cuda.event()
    device.enqueue(room.stream, lambda: None, 3)
    cuda.record(start, room.stream)
    device.enqueue(room.stream, lambda: None, 7)
    cuda.record(end, room.stream)
    with pytest.raises(DeviceError, match="cudaEventElapsedTime"):
        cuda.elapsed_ms(start, end)
    cuda.synchronize(room.stream)
    assert cuda.elapsed_ms(start, end) == 7
    cuda.destroy_event(start)
    cuda.destroy_event(end)


def test_a_graph_runs_what_was_captured_as_often_as_it_is_launched(cuda: Cuda, room: Room) -> None:
    cuda.begin_capture(room.stream)
    room.round_trip()
    graph = cuda.end_capture(room.stream)
    executable = cuda.instantiate(graph)
    cuda.destroy_graph(graph)
    for value in (3, 4):
        room.view(0)[:] = value
        cuda.launch(executable, room.stream)
        cuda.synchronize(room.stream)
        assert (room.view(1) == value).all()
    cuda.destroy_executable(executable)


def test_an_error_of_cuda_says_what_failed_and_is_not_met_again(device: Device, cuda: Cuda) -> None:
    device.fail("cudaMalloc", 2)
    with pytest.raises(DeviceError, match=r"cudaMalloc.*out of memory.*error 2") as caught:
        cuda.allocate(10)
    assert caught.value.exit_code == 1
    assert device.last == 0
    cuda.free(cuda.allocate(10))


def test_what_was_given_back_is_gone(cuda: Cuda) -> None:
    address, stream = cuda.allocate(10), cuda.stream()
    cuda.free(address)
    cuda.destroy_stream(stream)
    for again in (lambda: cuda.free(address), lambda: cuda.destroy_stream(stream), lambda: cuda.synchronize(stream)):
        with pytest.raises(DeviceError):
            again()


def test_a_copy_beyond_the_memory_is_cuda_s_error(cuda: Cuda, room: Room) -> None:
    cuda.to_device(room.device, room.pinned[0], SIZE + 1, room.stream)
    with pytest.raises(DeviceError, match="cudaStreamSynchronize"):
        cuda.synchronize(room.stream)


@pytest.mark.parametrize("number", [2, 7, -1])
def test_a_gpu_that_is_not_there(cuda: Cuda, number: int) -> None:
    with pytest.raises(Unsupported, match=rf"cuda:{number}.* 2 "):
        cuda.use(number)


def test_no_gpu_at_all(device: Device, cuda: Cuda) -> None:
    device.devices(0)
    try:
        with pytest.raises(Unsupported, match="cudaGetDeviceCount"):
            cuda.use(0)
    finally:
        device.devices(2)


def test_a_library_that_the_driver_is_too_old_for_is_passed_over(device: Device, tmp_path: Path) -> None:
    newer = Device(compile_cudart(tmp_path / "newer.so"))
    newer.fail("cudaGetDeviceCount", 35)
    assert open_cuda([str(newer.path), str(device.path)]).name == str(device.path)
    newer.fail("cudaGetDeviceCount", 35)
    again = ctypes.CDLL(str(newer.path))
    assert again.cudaGetDeviceCount(ctypes.byref(ctypes.c_int())) == 35  # so that the line above is known to have been used up


def test_no_library_is_a_missing_dependency(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    with pytest.raises(MissingDependency, match=r"text\.so") as caught:
        open_cuda([str(tmp_path / "nowhere.so"), str(text)])
    assert caught.value.exit_code == 3
    assert "--device cpu" in caught.value.hint


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_LIBRARY_PATH is Linux's")
@pytest.mark.parametrize("name", LIBRARIES)
def test_each_name_is_found_where_the_linker_looks(name: str, device: Device, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(device.path)
    code = "from tlexport.device.runtimes.cuda import open_cuda; c = open_cuda(); print(c.name, c.device_name(0))"
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if (found := done.stdout.partition(" ")[0]) in LIBRARIES[: LIBRARIES.index(name)]:
        pytest.skip(f"this machine has {found}, which is preferred")
    assert done.stdout.split(maxsplit=1) == [name, "Stand-in A\n"], done.stderr


# --- NVIDIA's own library, without a GPU ------------------------------------------------------------------------------

REAL = ["nvidia-cuda-runtime-cu11==11.8.89", "nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cuda-runtime==13.5.37"]


def called() -> set[str]:
    """The functions of CUDA that our file names."""
    tree = ast.parse(Path(tlexport.device.runtimes.cuda.__file__).read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {text for text in texts if re.fullmatch(r"cuda[A-Z]\w+", text)}


@pytest.mark.slow
@pytest.mark.parametrize("requirement", REAL)
def test_the_real_library_has_what_we_call_and_tells_its_errors(requirement: str, tmp_path: Path) -> None:
    try:
        wheel = download(requirement, tmp_path)
    except NotHere as reason:
        pytest.skip(str(reason))
    zipfile.ZipFile(wheel).extractall(tmp_path)
    [path] = tmp_path.glob("nvidia/*/lib/libcudart.so.*")
    assert path.name in LIBRARIES
    library = ctypes.CDLL(str(path))
    assert {"cudaMalloc", "cudaGraphInstantiateWithFlags"} <= called()
    assert [name for name in sorted(called()) if not hasattr(library, name)] == []
    try:
        found = open_cuda([str(path)])
        found.use(0)
    except Unsupported as error:  # as on a machine without a driver
        assert re.search(r"cudaGetDeviceCount failed: .*(driver|device).* \(CUDA error \d+, ", error.message)
    else:
        assert found.runtime_version().split(".")[0] == re.search(r"==(\d+)", requirement)[1]  # type: ignore[index]
        assert found.memory().total >= found.memory().free > 0
