"""Decisions of an export: binding and advisory limits, and latencies from a noisy machine."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from commands import here
from exports import Notes
from measurements import ENVIRONMENT, MS

from tlexport.api.export import Exported, ExportSettings, export
from tlexport.bench.process import BenchRequest
from tlexport.bundle.manifest import MODEL_CARD, read_manifest
from tlexport.checkpoint import read_checkpoint
from tlexport.errors import OverBudget, Unsupported, VerificationFailed
from tlexport.export.checks import check_probabilities
from tlexport.hardware.profile import Budget
from tlexport.hardware.target import Target, resolve
from tlexport.measurement import Measurement
from tlexport.optimize.job import Training
from tlexport.plan import Constraints
from tlexport.quantizers import fp16

QUIET = [100, 101, 99, 100, 102] * 20  # hundredths of the time that a run takes
BUSY = [100, 110, 150, 100, 900] * 20  # other programs share the cores


def small(**budget: str) -> Target:
    """This machine, with a budget, and without INT8, whose search takes a while."""
    found = resolve("cpu-x86")
    precisions = found.profile.precisions.model_copy(update={"value": ("fp32", "fp16")})
    changes = {"precisions": precisions, "int8": None, "budget": Budget.model_validate(budget)}
    return dataclasses.replace(found, profile=found.profile.model_copy(update=changes), here=True)


def timings(*rounds: list[int], ms: Callable[[int], float] = lambda side: 10.0) -> Callable[[Sequence[BenchRequest]], list[Measurement]]:
    """Measurements of a machine with this scatter, one list for each timing; the last one repeats."""
    left = list(rounds)

    def measure(requests: Sequence[BenchRequest]) -> list[Measurement]:
        shape = left.pop(0) if len(left) > 1 else left[0]
        found = []
        for request in requests:
            run = ms(int(request.path.parent.name)) * MS / 100
            found.append(
                Measurement(
                    what=request.what,
                    artifact_sha256=request.artifact_sha256,
                    precision=request.precision,
                    runtime=request.runtime,
                    provider="CPUExecutionProvider",
                    threads=1,
                    batch=1,
                    warmup_runs=1,
                    latencies_ns=tuple(round(share * run) for share in shape),
                    load_ns=1,
                    peak_memory_bytes=1,
                    size_bytes=request.size_bytes,
                    environment=ENVIRONMENT,
                )
            )
        return found

    return measure


def never(training: Training) -> bool:
    raise AssertionError(f"nothing was to be trained: {training.in_words()}")


def decided(checkpoint: Path, target: Target, out: Path, measure: Callable[..., list[Measurement]], **constraints: object) -> Exported:
    asked = Constraints(precision="fp32", **constraints)  # type: ignore[arg-type] -- fields of it
    return export(checkpoint, target, asked, out, settings=ExportSettings(measure=measure, consent=never))


# --- noise ------------------------------------------------------------------------------------------------------------


def test_a_noisy_machine_does_not_change_the_network(checkpoint: Path, tmp_path: Path) -> None:
    made = decided(checkpoint, small(), tmp_path / "bundle", timings(BUSY), max_latency_ms=12.0)
    chosen, side = made.manifest.model(), read_checkpoint(checkpoint).preprocess.size
    assert made.manifest.preprocess.size == side
    assert chosen.latency is not None
    noise = chosen.latency.noise
    assert noise is not None
    assert (noise.verdict, noise.repeats, noise.shortest_ms) == ("noisy", 3, 10.0)
    assert "scatter" in noise.cause
    [doubt] = chosen.doubts
    assert "90 ms > 12 ms" in doubt  # the figure and the limit
    assert made.to_json()["budget"] == {"kept": False, "over": [], "doubts": [doubt]}
    card = (made.path / MODEL_CARD).read_text(encoding="utf-8")
    assert "measured 3 times; noisy machine: the runs scatter" in card
    assert read_manifest(made.path) == made.manifest


def test_a_latency_is_measured_again_before_it_counts(checkpoint: Path, tmp_path: Path) -> None:
    made = decided(checkpoint, small(), tmp_path / "bundle", timings(BUSY, QUIET), max_latency_ms=12.0)
    chosen = made.manifest.model()
    assert chosen.latency is not None
    assert chosen.latency.noise is not None
    assert (chosen.latency.p95, chosen.latency.noise.verdict, chosen.latency.noise.repeats) == (10.2, "quiet", 2)
    assert not chosen.doubts


def test_what_is_too_slow_on_a_quiet_machine_gets_smaller_images(checkpoint: Path, tmp_path: Path) -> None:
    side = read_checkpoint(checkpoint).preprocess.size
    measure = timings(QUIET, ms=lambda size: 10.0 * (size / side) ** 2)
    made = decided(checkpoint, small(), tmp_path / "bundle", measure, max_latency_ms=8.0, max_drop_points=100.0)
    assert made.manifest.preprocess.size < side
    [before] = [r for r in made.manifest.rejected if r.what == f"at {side} px"]
    assert before.latency is not None
    assert before.latency.noise is not None
    assert before.latency.noise.repeats == 2
    assert before.reason == "p95 latency 10.2 ms > 8 ms"


def test_a_latency_that_even_the_shortest_run_breaks_is_refused_on_a_noisy_machine_too(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(OverBudget, match=r"90 ms \(noisy machine; the shortest run took 10 ms\) > 0.1 ms"):
        decided(checkpoint, small(), tmp_path / "bundle", timings(BUSY), max_latency_ms=0.1)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_beside_programs_that_burn_all_cores_the_network_stays(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    burn = [sys.executable, "-S", "-c", "while True: pass"]
    burners = [subprocess.Popen(burn) for _ in range(2)]
    try:
        arguments = ("--target", "cpu-x86", "--precision", "fp32", "--max-latency", "15ms", "--no-train")
        ended = here(capfd, "export", checkpoint, *arguments, "-o", tmp_path / "bundle")
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert ended.code == 0, ended.err
    assert read_manifest(tmp_path / "bundle").preprocess == read_checkpoint(checkpoint).preprocess


# --- the profile's own budget -------------------------------------------------------------------------------------------


def test_a_profile_s_budget_is_a_yardstick(checkpoint: Path, tmp_path: Path) -> None:
    target = small(size="1 MB", latency_p95="1 ms")
    made = decided(checkpoint, target, tmp_path / "bundle", timings(QUIET, ms=lambda side: 2.0))
    chosen = made.manifest.model()
    assert chosen.artifact.shrunk is None
    assert made.manifest.preprocess == read_checkpoint(checkpoint).preprocess
    assert [text.partition(" ")[0] for text in chosen.over] == ["size", "p95"]
    assert chosen.reason.startswith("requested; over the profile's budget: size ")
    assert made.to_json()["budget"] == {"kept": False, "over": list(chosen.over), "doubts": []}
    assert not made.manifest.rejected


@pytest.mark.slow
def test_a_training_is_announced_and_can_be_declined(checkpoint: Path, tmp_path: Path) -> None:
    asked: list[Training] = []

    def decline(training: Training) -> bool:
        asked.append(training)
        return False

    notes, out = Notes(), tmp_path / "bundle"
    with pytest.raises(OverBudget, match=r"size .* > 4.00 MB"):
        export(
            checkpoint,
            small(),
            Constraints(precision="fp32", max_size_bytes=4_000_000),
            out,
            progress=notes,
            settings=ExportSettings(consent=decline, measure=timings(QUIET)),
        )
    [training] = asked
    assert training.seconds > 0
    assert training.in_words() in notes.texts
    assert not out.exists()
    export(
        checkpoint,
        small(size="4 MB"),
        Constraints(precision="fp32", shrink=True),
        out,
        settings=ExportSettings(consent=decline, measure=timings(QUIET)),
    )
    assert len(asked) == 2  # --shrink asks for it as a limit does
    assert read_manifest(out).model().over


# --- a precision that fails -----------------------------------------------------------------------------------------------


def test_a_precision_that_fails_is_rejected_and_takes_no_other_with_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantize(request: object) -> object:
        raise ValueError("a scale that FP16 cannot tell from 0")

    monkeypatch.setattr(fp16, "quantize", quantize)
    made = export(checkpoint, small(), Constraints(), tmp_path / "bundle", settings=ExportSettings(measure=timings(QUIET)))
    assert made.manifest.model().artifact.precision == "fp32"
    [rejected] = read_manifest(made.path).rejected
    assert (rejected.precision, rejected.reason) == ("fp16", "ValueError: a scale that FP16 cannot tell from 0")
    models = made.to_json()["models"]
    assert isinstance(models, list)
    assert [(m["precision"], m["rejected"], m["path"] is None) for m in models] == [("fp32", False, False), ("fp16", True, True)]
    assert "Rejected: FP16" in (made.path / MODEL_CARD).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="cannot tell from 0"):
        export(checkpoint, small(), Constraints(precision="fp16"), tmp_path / "alone", settings=ExportSettings(measure=timings(QUIET)))
    assert not (tmp_path / "alone").exists()


def test_a_model_that_crashes_only_while_it_is_timed_is_rejected_alone(checkpoint: Path, tmp_path: Path) -> None:
    quiet = timings(QUIET)

    def measure(requests: Sequence[BenchRequest]) -> list[Measurement]:
        for request in requests:
            if request.precision == crashing:
                raise Unsupported(f"measuring {request.what}: the runtime crashed (SIGSEGV)")
        return quiet(requests)

    crashing = "fp16"
    made = export(checkpoint, small(), Constraints(), tmp_path / "bundle", settings=ExportSettings(measure=measure))
    [model], [rejected] = made.manifest.models, read_manifest(made.path).rejected
    assert (model.artifact.precision, model.chosen, rejected.precision) == ("fp32", True, "fp16")
    assert "crashed (SIGSEGV)" in rejected.reason
    with pytest.raises(Unsupported, match="crashed"):
        export(checkpoint, small(), Constraints(precision="fp16"), tmp_path / "asked for", settings=ExportSettings(measure=measure))
    crashing = "fp32"  # the reference for the others
    with pytest.raises(Unsupported, match="crashed"):
        export(checkpoint, small(), Constraints(), tmp_path / "reference", settings=ExportSettings(measure=measure))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_what_is_no_probability_is_refused() -> None:
    check_probabilities("fp16", np.array([[0.25, 0.7499]], np.float32))
    for bad in ([np.nan, 0.5], [np.inf, 0.0], [0.5, 0.6]):
        with pytest.raises(VerificationFailed, match="1 of 2"):
            check_probabilities("fp16", np.array([[0.5, 0.5], bad], np.float32))


ASK = """
import sys
from tlexport.optimize.job import Training
from tlexport.cli import main
from tlexport.cli.export import _consent
training = Training("pruning", "3 epochs of 100 images", "44.7 MB > 8 MB", 600.0)
main.tlx.invoke = lambda context: print(_consent(training, declined="no" in sys.argv, given="yes" in sys.argv))
sys.exit(main.run(["doctor"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("typed", "words", "code", "answer"),
    [
        (b"y\n", (), 0, "True"),
        (b"\n", (), 0, "True"),
        (b"n\n", (), 0, "False"),
        (b"what\nn\n", (), 0, "False"),
        (b"\x03", (), 130, ""),
        (b"\x04", (), 130, ""),
        (b"", ("yes",), 0, "True"),
        (b"", ("no",), 0, "False"),
    ],
    ids=["y", "enter", "n", "another word", "Ctrl-C", "Ctrl-D", "--yes", "--no-train"],
)
def test_a_training_is_asked_about_on_a_terminal(typed: bytes, words: tuple[str, ...], code: int, answer: str) -> None:
    """The question itself, in a process whose standard input and error are a terminal; the answer goes to standard output."""
    import os
    import pty

    reader, terminal = pty.openpty()
    command = [sys.executable, "-c", ASK, *words]
    with subprocess.Popen(command, stdin=terminal, stderr=terminal, stdout=subprocess.PIPE) as child:
        os.close(terminal)
        seen = b""
        while typed and b"Begin?" not in seen:
            seen += os.read(reader, 4096)
        if typed != b"\x03" and typed:  # the terminal controls no process, so that Ctrl-C in it sends no signal
            os.write(reader, typed)
        while typed == b"\x03" and child.poll() is None:
            child.send_signal(2)  # again: a signal between the prompt and the read interrupts neither
            time.sleep(3)
        out = child.communicate(timeout=60)[0].decode()
    os.close(reader)
    assert (child.returncode, out.strip()) == (code, answer)
    assert not typed or b"pruning (3 epochs of 100 images) will take about 10 min; 44.7 MB > 8 MB. Begin?" in seen
