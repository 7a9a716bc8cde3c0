"""Convert the fitted model to the figures of each profile and to TOML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from board_model import KINDS, Model, Row, Unit
from board_scores import FEW

from tlexport.estimate.boards import LAUNCHES, SCALED_CPU, SCALED_GPU, conditions, scaled, wider
from tlexport.hardware.board_rates import BoardRates, Conditions, Rates
from tlexport.hardware.profile import Profile
from tlexport.hardware.target import load_profile, split_mode

MARK = "\n# Latency figures for estimates, written by benchmarks/fit_boards.py (docs/estimates.md). Do not edit.\n"

# Board in the published tables -> profile with the power mode of its measurements. Only MLPerf's rows state the mode of a Jetson (MAXN);
# the same mode is assumed for the others.
BOARDS = {
    "Jetson Nano": "jetson-nano",
    "Jetson TX2": "jetson-tx2",
    "Jetson AGX Xavier": "jetson-agx-xavier",
    "Jetson AGX Orin 64GB": "jetson-agx-orin",
    "Jetson Orin NX 16GB": "jetson-orin-nx:maxn",
    "Raspberry Pi 3B+": "raspberry-pi-3b-plus",
    "Raspberry Pi 4B (1.8GHz)": "raspberry-pi-4",
    "Raspberry Pi 5": "raspberry-pi-5",
    "Raspberry Pi Zero 2 W": "raspberry-pi-zero-2w",
    "RK3568": "rk3568",
    "RK3588": "rk3588",
    "Intel Celeron N5105": "intel-n5105",
}
# Boards without rows of their runtime -> closest relative with rows: the same GPU generation, or similar CPU cores.
RELATIVES = {
    "jetson-xavier-nx": "jetson-agx-xavier",
    "jetson-orin-nano": "jetson-orin-nx",
    "jetson-orin-nano-4gb": "jetson-orin-nx",
    "jetson-orin-nx-8gb": "jetson-orin-nx",
    "jetson-agx-orin-32gb": "jetson-agx-orin",
    "jetson-agx-thor": "jetson-agx-orin",
    "coral-dev-board-cpu": "raspberry-pi-3b-plus",
    "beaglebone-ai64": "raspberry-pi-4",
    "intel-n100": "intel-n5105",
}
HALF = Conditions(mhz=1, tops=1, bandwidth_gb_s=1), Conditions(mhz=1, tops=0.5, bandwidth_gb_s=0.5)  # FP16 to FP32: twice the bits


@dataclass(frozen=True)
class Fitted:
    """The fitted models with their intervals."""

    models: Mapping[str, Model]  # runtime -> model fitted to all rows
    rows: Sequence[Row]
    intervals: Mapping[tuple[str, str], float]  # (runtime, precision) -> 80 % interval
    date: str


def figures_of(fitted: Fitted) -> dict[str, list[BoardRates]]:
    """The figures of every profile."""
    found: dict[str, list[BoardRates]] = {}
    for device, target in BOARDS.items():
        found[split_mode(target)[0]] = list(_own(fitted, device, load_profile(target)))
    for name, relative in RELATIVES.items():
        profile = load_profile(name)
        found[name] = [_lent(figures, profile) for figures in found[relative] if _comparable(figures, profile)]
    return {name: [one for one in many if one.precision in load_profile(name).precisions.value] for name, many in found.items()}


def _own(fitted: Fitted, device: str, profile: Profile) -> Iterator[BoardRates]:
    """Figures of a board from its own rows; for TensorRT also in other precisions; for CPUs with FP16 rows only, also FP32."""
    runtime = "tensorrt" if profile.runtime == "tensorrt" else "ncnn"
    model = fitted.models[runtime]
    units = [unit for unit in model.units if unit.device == device and not unit.tuned and not unit.cores]
    measured = {row.unit for row in fitted.rows}
    elsewhere = [row for row in fitted.rows if row.unit.device == device and row.unit.runtime == runtime]
    for unit in units:
        rows = [row for row in elsewhere if replace(row.unit, tuned=False) == unit]
        figures = _figures(fitted, profile, unit, model, rows or elsewhere)
        if not rows:
            others = " and ".join(sorted({row.unit.precision.upper() for row in elsewhere}))
            figures = figures.model_copy(
                update={"borrowed_from": f"{profile.name} in {others} and other boards in {unit.precision.upper()}"}
            )
        if not rows or len(elsewhere) < FEW:
            figures = figures.model_copy(update={"interval": _round(_wider(figures))})
        yield figures
        if unit.precision == "fp16" and unit.threads is not None and replace(unit, precision="fp32") not in measured:
            yield _doubled(figures, profile)


def _figures(fitted: Fitted, profile: Profile, unit: Unit, model: Model, rows: Sequence[Row]) -> BoardRates:
    costs = dict(zip(KINDS, model.of(unit), strict=True))
    return BoardRates(
        board=profile.name,
        runtime=unit.runtime,
        precision=unit.precision,
        threads=unit.threads,
        per_ns=Rates(**{kind: _round(1 / cost) for kind, cost in costs.items() if kind != LAUNCHES}),
        launch_us=_round(costs[LAUNCHES] / 1e3),
        interval=_round(fitted.intervals[unit.runtime, unit.precision]),
        at=conditions(profile.hardware, unit.precision, unit.threads is None),
        rows=len(rows),
        date=fitted.date,
        source="; ".join(sorted({row.source for row in rows})),
    )


def _doubled(figures: BoardRates, profile: Profile) -> BoardRates:
    """FP32 from FP16 figures: numbers of twice the size, half as many per register."""
    half = scaled(figures.model_copy(update={"at": HALF[0]}), HALF[1])
    return _rounded(
        half.model_copy(
            update={
                "precision": "fp32",
                "at": conditions(profile.hardware, "fp32", on_gpu=False),
                "borrowed_from": f"{profile.name} in FP16, at half the rates",
                "interval": _wider(figures),
            }
        )
    )


def _comparable(figures: BoardRates, profile: Profile) -> bool:
    """Whether both or neither of the processors have arithmetic for this precision; otherwise the figures are not transferable."""
    here = conditions(profile.hardware, figures.precision, figures.threads is None)
    return (figures.at.tops is None) == (here.tops is None)


def _lent(figures: BoardRates, profile: Profile) -> BoardRates:
    """A relative's figures, scaled to the hardware of a profile."""
    moved = scaled(figures, conditions(profile.hardware, figures.precision, figures.threads is None))
    lender = figures.borrowed_from or figures.board
    update = {"board": profile.name, "borrowed_from": lender, "interval": _wider(figures)}
    return _rounded(moved.model_copy(update=update))


def _wider(figures: BoardRates) -> float:
    """The interval of figures transferred to other hardware."""
    return wider(figures.interval, SCALED_GPU if figures.threads is None else SCALED_CPU)


def _rounded(figures: BoardRates) -> BoardRates:
    rates = Rates(**{kind: _round(rate) for kind, rate in figures.per_ns.model_dump().items()})
    return figures.model_copy(update={"per_ns": rates, "launch_us": _round(figures.launch_us), "interval": _round(figures.interval)})


def _round(value: float) -> float:
    """Round to three significant digits, more than the accuracy of any figure."""
    return float(f"{value:.3g}")


def written(text: str, many: Sequence[BoardRates]) -> str:
    """A profile's text with these figures, and nothing else, below the mark."""
    before = text.split(MARK)[0].rstrip("\n") + "\n"
    return before + MARK + "\n" + "\n".join(_toml(figures) for figures in many)


def _toml(figures: BoardRates) -> str:
    lines = ["[[latency]]"]
    for key, value in figures.model_dump(exclude_none=True).items():
        if isinstance(value, dict):
            value = "{ " + ", ".join(f"{inner} = {number:g}" for inner, number in value.items()) + " }"
        else:
            value = f'"{value}"' if isinstance(value, str) else f"{value:g}"
        lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"
