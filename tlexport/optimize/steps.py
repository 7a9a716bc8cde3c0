"""The steps of an export in order, with reasons. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from tlexport.artifact import PRECISIONS, Precision
from tlexport.errors import Unsupported
from tlexport.hardware.profile import Profile
from tlexport.plan import Constraints
from tlexport.units import format_bytes

RECOVERY = "if it loses too much accuracy: equalization, bias correction, blocks in float"
ANNOUNCED = "announced with its expected time, and confirmed on a terminal, before it starts"


@dataclass(frozen=True)
class Step:
    """One step of an export and its reason."""

    action: Literal["convert", "quantize", "check", "measure", "estimate", "change", "train", "choose", "write"]
    precision: Precision | None
    reason: str

    def to_json(self) -> dict[str, object]:
        """As ``export --dry-run --json`` prints it."""
        return {"action": self.action, "precision": self.precision, "reason": self.reason}


def plan_export(profile: Profile, constraints: Constraints, here: bool, estimated: Collection[Precision] = ()) -> tuple[Step, ...]:
    """List the steps of an export.

    Args:
        profile: the target.
        constraints: the user's request; precision ``auto`` makes all precisions that the target accelerates and chooses one.
        here: this machine is the target, so latency is measured.
        estimated: otherwise, the precisions whose latency can be estimated.

    Raises:
        Unsupported: the target does not support the precision.
    """
    able, precision = profile.precisions.value, constraints.precision
    if precision != "auto" and precision not in able:
        raise Unsupported(
            f"{profile.title} has no {precision}: {profile.precisions.source}", f"use --precision {' or '.join(able)}, or another --target"
        )
    # the other precisions are made from FP32, and on the device it is their reference
    wanted = [p for p in PRECISIONS if p in able and (precision in ("auto", p) or p == "fp32")]
    steps = [Step("convert", "fp32", f"ONNX, opset {profile.opset.value}, {profile.input_dtype.value} image in, probabilities out")]
    if "fp16" in wanted:
        steps.append(Step("quantize", "fp16", "half the size; typed graph"))
    if "int8" in wanted and profile.int8 is not None:
        steps.append(
            Step(
                "quantize",
                "int8",
                f"{profile.int8.quantizer}, {profile.int8.activations} activations, calibrated on training images; {RECOVERY}",
            )
        )
    steps += [Step("check", p, "onnx.checker, declared tensors, agreement with the checkpoint on every validation image") for p in wanted]
    if here:
        steps += [Step("measure", p, f"this machine is {profile.target}: latency is measured, all models in turn") for p in wanted]
    else:
        steps += [Step("estimate", p, f"latency on {profile.target} is estimated, not measured") for p in wanted if p in estimated]
    steps += _changes(profile, constraints, wanted)
    how = "the fastest model within the limits" if precision == "auto" else "as requested"
    steps.append(Step("choose", None if precision == "auto" else precision, f"{how}; {_yardstick(constraints)}"))
    steps.append(Step("write", None, "the bundle"))
    return tuple(steps)


def _changes(profile: Profile, constraints: Constraints, wanted: Collection[Precision]) -> Iterator[Step]:
    """Possible trainings and changes of the network. Each happens only if needed, and is announced with its expected time."""
    limits = constraints.may_change(profile.budget)
    if constraints.may_train and "int8" in wanted:
        reason = f"quantization-aware training, if INT8 still loses more than {limits.drop_points:g} points of top-1; {ANNOUNCED}"
        yield Step("train", "int8", reason)
    if limits.size_bytes is not None:
        reason = f"if every model is over {format_bytes(limits.size_bytes)}: prune and retrain the network; {ANNOUNCED}"
        yield Step("change", None, reason)
    if limits.latency_p95_ms is not None:
        yield Step("change", None, f"if every model takes more than {limits.latency_p95_ms:g} ms in repeated measurements: smaller images")


def _yardstick(constraints: Constraints) -> str:
    """How this export uses the profile's own budget."""
    if constraints.shrink:
        return "--shrink: the network may be changed to meet the profile's own budget"
    return "the profile's own budget is only reported; with --shrink the network may be changed to meet it"
