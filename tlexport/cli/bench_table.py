"""Measurements as text: tables of 80 columns, and Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tlexport.cli.output import echo, print_table
from tlexport.units import format_bytes, format_ms

if TYPE_CHECKING:
    from tlexport.api.compare import Comparison
    from tlexport.bench.against import Regression
    from tlexport.measurement import Measurement

NAME = 36  # longest name of a model or a layer in a table
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # columns and rows


def show(title: str, measurements: Sequence[Measurement]) -> None:
    """Print the tables, then the environment."""
    batches, threads = {m.batch for m in measurements}, {m.threads for m in measurements}
    settings = f"batch {next(iter(batches))}, " if len(batches) == 1 else ""
    echo(f"{title}, {settings}latency in ms")
    swept = len(batches) > 1 or len(threads) > 1
    print_table("", *latencies(measurements, swept))
    echo()
    print_table("", *costs(measurements, swept))
    for m in measurements:
        if m.layers:
            slowest, of = len(m.layers.slowest), f"{m.layers.count} layers; all layers take {m.layers.total_us:.0f} µs"
            echo(f"\n{m.precision}: the {slowest} slowest of {of}")
            rows = [(_short(one.name), one.kind, f"{one.us:.0f}", f"{one.share:.1%}") for one in m.layers.slowest]
            print_table("", ("layer", "kind", "µs", "share"), rows)
    echo()
    for line in circumstances(measurements):
        echo(line)


def latencies(measurements: Sequence[Measurement], swept: bool) -> Table:
    """Latency and throughput. A sweep shows its settings instead of p90 and size."""
    percentiles = ("p50", "p95", "p99") if swept else ("p50", "p90", "p95", "p99")
    columns = ("model", *(("batch", "thr") if swept else ()), *percentiles, "mean", "img/s", *(() if swept else ("size",)))
    rows = []
    for m in measurements:
        latency = m.latency()
        mean = f"{format_ms(latency['mean'])} ±{format_ms((latency['mean_high'] - latency['mean_low']) / 2)}"
        figures = (*(format_ms(latency[key]) for key in percentiles), mean, f"{m.throughput_per_s:.0f}")
        rows.append((m.precision, *_settings(m, swept), *figures, *(() if swept else (format_bytes(m.size_bytes),))))
    return columns, rows


def costs(measurements: Sequence[Measurement], swept: bool) -> Table:
    """Load time, memory, energy, and the stages of one image (in a sweep: the size). Columns without any value are left out."""
    stage_names = () if swept else ("decode", "resize", "infer")
    columns = ("model", *(("batch", "thr", "size") if swept else ()), "load ms", "first", "memory", "GPU mem", *stage_names, "mJ/img")
    rows = []
    for m in measurements:
        stages = m.stages.medians_ms() if m.stages else {}
        start = (format_ms(m.load_ns / 1e6), format_ms(None if m.first_inference_ns is None else m.first_inference_ns / 1e6))
        memory = (format_bytes(m.peak_memory_bytes), "-" if m.gpu_memory_bytes is None else format_bytes(m.gpu_memory_bytes))
        size = (format_bytes(m.size_bytes),) if swept else ()
        times = (format_ms(stages.get(name)) for name in stage_names)
        rows.append((m.precision, *_settings(m, swept), *size, *start, *memory, *times, format_ms(m.energy_mj_per_image)))
    shown = [at for at in range(len(columns)) if any(row[at] != "-" for row in rows)]
    return tuple(columns[at] for at in shown), [tuple(row[at] for at in shown) for row in rows]


def _settings(m: Measurement, swept: bool) -> tuple[str, ...]:
    return (str(m.batch), str(m.threads)) if swept else ()


def circumstances(measurements: Sequence[Measurement]) -> list[str]:
    """How and on which machine the figures were measured, one line each."""
    from tlexport.bench.noise import noise

    first, lines = measurements[0], []
    threads = sorted({m.threads for m in measurements})
    runs = min(len(m.latencies_ns) for m in measurements)
    lines.append(f"{first.provider}, {'/'.join(map(str, threads))} threads, at least {runs} runs each")
    if first.placement:
        nodes = ", ".join(sorted({str(sum((m.placement or {}).values())) for m in measurements}, key=int))
        lines.append(f"nodes, all on that provider: {nodes}")
    if any(m.stages for m in measurements):
        lines.append("decode, resize, infer: medians of single images, starting from the file")
    lines += sorted({m.inputs for m in measurements if m.inputs and m.inputs.startswith("synthetic")})
    if noisy := dict.fromkeys(m.precision for m in measurements if noise(m)):
        lines.append(f"noisy measurement: {', '.join(noisy)}")
    e = first.environment
    lines.append(f"{e.cpu}, governor {e.governor or 'not readable'}, load {e.load_1min}")
    return lines


def show_comparisons(what: str, comparisons: Sequence[Comparison]) -> None:
    """Print the comparison of each other model with the first."""
    echo(f"time of each model relative to {what}")
    rows = []
    for one in comparisons:
        found = one.interval
        rows.append((_short(one.other), f"{found.ratio:.3f}", f"{found.low:.3f} to {found.high:.3f}", found.in_words()))
    print_table("", ("model", "ratio", "99 % interval", "verdict"), rows)
    echo(f"\n{len(comparisons[0].rounds)} rounds; in each, the models were started anew and timed alternately")


def show_regressions(regressions: Sequence[Regression]) -> None:
    """Print the comparison of each model with the earlier measurement."""
    rows = []
    for one in regressions:
        found, medians = one.interval, (format_ms(one.before.percentile_ms(50)), format_ms(one.now.percentile_ms(50)))
        rows.append((_short(one.now.what), *medians, f"{found.ratio:.3f}", f"{found.low:.3f} to {found.high:.3f}"))
    echo()
    print_table("", ("model", "before", "now", "ratio", "99 % interval"), rows)
    for text in sorted({text for one in regressions for text in one.differs}):
        echo(f"not the same machine: {text}")


def markdown(title: str, measurements: Sequence[Measurement], regressions: Sequence[Regression] = ()) -> str:
    """One Markdown table, and the lines of :func:`circumstances` below it."""
    batches, threads = {m.batch for m in measurements}, {m.threads for m in measurements}
    columns, rows = latencies(measurements, len(batches) > 1 or len(threads) > 1)
    if regressions:
        columns = (*columns, "against before")
        ratios = [f"{one.interval.ratio:.3f} ({one.interval.low:.3f} to {one.interval.high:.3f})" for one in regressions]
        rows = [(*row, text) for row, text in zip(rows, ratios, strict=True)]
    lines = [f"**{_cell(title)}**, latency in ms", "", _row(columns), _row(["---", *["---:"] * (len(columns) - 1)]), *map(_row, rows), ""]
    differs = [f"not the same machine: {text}" for text in sorted({text for one in regressions for text in one.differs})]
    return "\n".join([*lines, *(f"{_cell(line)}  " for line in [*circumstances(measurements), *differs])]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Escape Markdown and HTML."""
    for sign in "\\`*_|<>[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _short(name: str) -> str:
    """Shorten a long name. The end is kept: it distinguishes models better than the beginning."""
    return name if len(name) <= NAME else "…" + name[1 - NAME :]
