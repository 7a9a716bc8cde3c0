"""Child processes end with their parent, also after SIGKILL: real processes, a real SIGKILL."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from commands import ROOT, environment
from onnx import TensorProto, helper

from tlexport.bench.process import BenchRequest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")

MEASURE = "from tlexport.bench.process import BenchRequest, measure\nmeasure(BenchRequest.model_validate_json(sys.argv[1]))"
TURNS = (
    "from tlexport.bench.in_turn import measure_in_turn\nfrom tlexport.bench.process import BenchRequest\n"
    "measure_in_turn([BenchRequest.model_validate_json(sys.argv[1])])"
)
FOLLOW = (
    "import os, sys, time\nfrom tlexport.device import lifeline\nlifeline.follow(sys.stdin, print, os.getppid())\n"
    "sum(range(10**7))\ntime.sleep(600)"
)
TRTEXEC = "from tlexport.device.runtimes import trtexec\ntrtexec.run(sys.argv[1], ['600'])"


@pytest.fixture
def endless(tmp_path: Path) -> BenchRequest:
    """A measurement that runs until it is killed."""
    shape = ["batch", 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return BenchRequest(
        what="tiny",
        path=path,
        runtime="onnxruntime",
        artifact_sha256="0" * 64,
        precision="fp32",
        size_bytes=1,
        min_seconds=36_000,
        max_runs=10**9,
    )


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=30)[1]


def until(reached: Callable[[], bool], parent: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not reached():
        assert parent.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def killed(code: str, argument: str) -> None:
    """Start a parent, wait until its child is at work, kill the parent: the child is gone."""
    with subprocess.Popen([sys.executable, "-c", f"import sys\n{code}", argument], cwd=ROOT, env=environment()) as parent:
        try:
            watched = psutil.Process(parent.pid)
            until(lambda: any(child.cpu_times().user > 0.1 or "sleep" in child.name() for child in watched.children()), parent)
            children = watched.children(recursive=True)
        finally:
            parent.kill()
    assert children
    assert gone(children)


@linux
@pytest.mark.parametrize("code", [MEASURE, TURNS], ids=["measure", "in turn"])
def test_a_measurement_ends_when_its_parent_is_killed(endless: BenchRequest, code: str) -> None:
    killed(code, endless.model_dump_json())


@linux
def test_trtexec_ends_when_its_parent_is_killed() -> None:
    killed(TRTEXEC, "/bin/sleep")


def test_a_pipe_tells_where_the_system_sends_no_signal() -> None:
    killed("import subprocess\nsubprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE).wait()", FOLLOW)
