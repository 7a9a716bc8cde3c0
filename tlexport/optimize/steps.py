"""What an export will do, in order, and why. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from tlexport.artifact import PRECISIONS, Precision
from tlexport.errors import Unsupported
from tlexport.hardware.profile import Profile
from tlexport.plan import Constraints
from tlexport.units import format_bytes

LADDER = "where it loses too much: equalization, bias correction, blocks in float"
ANNOUNCED = "its expected time is told, and asked about on a terminal, before it begins"


@dataclass(frozen=True)
class Step:
    """One thing that export does, and why."""

    action: Literal["convert", "quantize", "check", "measure", "estimate", "change", "train", "choose", "write"]
    precision: Precision | None
    reason: str

    def to_json(self) -> dict[str, object]:
        """As ``export --dry-run --json`` prints it."""
        return {"action": self.action, "precision": self.precision, "reason": self.reason}


def plan_export(profile: Profile, constraints: Constraints, here: bool, estimated: Collection[Precision] = ()) -> tuple[Step, ...]:
    """The steps, in order.

    Args:
        profile: the target.
        constraints: what the user asked for; precision ``auto``: everything the target accelerates, then a choice.
        here: this machine is the target, so latency can be measured.
        estimated: where it cannot, the precisions that there is something to estimate latency by.

    Raises:
        Unsupported: the target cannot do that precision.
    """
    able, precision = profile.precisions.value, constraints.precision
    if precision != "auto" and precision not in able:
        raise Unsupported(
            f"{profile.title} has no {precision}: {profile.precisions.source}", f"use --precision {' or '.join(able)}, or another --target"
        )
    # FP32 is the parent of the others, and on the device the reference that they are held against
    wanted = [p for p in PRECISIONS if p in able and (precision in ("auto", p) or p == "fp32")]
    steps = [Step("convert", "fp32", f"ONNX, opset {profile.opset.value}, {profile.input_dtype.value} image in, probabilities out")]
    if "fp16" in wanted:
        steps.append(Step("quantize", "fp16", "half the size; types in the graph"))
    if "int8" in wanted and profile.int8 is not None:
        steps.append(
            Step(
                "quantize",
                "int8",
                f"{profile.int8.quantizer}, {profile.int8.activations} activations, calibrated on training images; {LADDER}",
            )
        )
    steps += [Step("check", p, "onnx.checker, declared tensors, agreement with the checkpoint on every validation image") for p in wanted]
    if here:
        steps += [Step("measure", p, f"this machine is {profile.target}: latency is measured, all models in turn") for p in wanted]
    else:
        steps += [Step("estimate", p, f"latency on {profile.target} is estimated, not measured") for p in wanted if p in estimated]
    steps += _changes(profile, constraints, wanted)
    how = "the fastest that keeps the limits" if precision == "auto" else "as asked"
    steps.append(Step("choose", None if precision == "auto" else precision, f"{how}; {_yardstick(constraints)}"))
    steps.append(Step("write", None, "the bundle"))
    return tuple(steps)


def _changes(profile: Profile, constraints: Constraints, wanted: Collection[Precision]) -> Iterator[Step]:
    """What may be trained, and what may be done to the network; each only where it is needed, and announced with its time before."""
    limits = constraints.may_change(profile.budget)
    if constraints.may_train and "int8" in wanted:
        reason = f"quantization-aware training, if INT8 still loses more than {limits.drop_points:g} points of top-1; {ANNOUNCED}"
        yield Step("train", "int8", reason)
    if limits.size_bytes is not None:
        reason = f"if every model is over {format_bytes(limits.size_bytes)}: prune the network and train it again; {ANNOUNCED}"
        yield Step("change", None, reason)
    if limits.latency_p95_ms is not None:
        yield Step("change", None, f"if every model takes more than {limits.latency_p95_ms:g} ms, measured again: smaller images")


def _yardstick(constraints: Constraints) -> str:
    """What the profile's own budget means for this export."""
    if constraints.shrink:
        return "--shrink allows changes of the network for the profile's own budget"
    return "the profile's own budget is a yardstick: nothing is changed or trained for it without --shrink"
