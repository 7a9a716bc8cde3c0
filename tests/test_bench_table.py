"""Output of a bench: tables that fit, Markdown that hostile names do not break, CSV that can be parsed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from measurements import MS, of

from tlexport.api.compare import Comparison
from tlexport.bench.against import Regression
from tlexport.cli import bench_table
from tlexport.measurement import Layer, LayerProfile, Measurement, Stages
from tlexport.report.bench_csv import write_csv

WIDTH = 80
SLOWEST = tuple(
    Layer(name="a/very/long/name/of/a/layer/" * 4 + str(n), kind="QLinearConv", provider="CPU", us=1e6, share=0.1) for n in range(10)
)


def measured(ms: float = 1.0, **changes: Any) -> Measurement:
    runs = [round(ms * MS * (1 + number % 7 / 10)) for number in range(70)]
    full = {
        "first_inference_ns": round(ms * 3 * MS),
        "gpu_memory_bytes": 12_345_678_901,
        "stages": Stages(decode_ns=(round(ms * MS),), resize_ns=(round(ms * MS),), infer_ns=(round(ms * MS),), images=1),
        "watch": {"watts": 7.5},
        "placement": {"CPUExecutionProvider": 111},
        "layers": LayerProfile(slowest=SLOWEST, count=1234, total_us=1e7, runs=30),
        "size_bytes": 987_654_321,
        "peak_memory_bytes": 9_876_543_210,
        "inputs": "real images",
    }
    return of(runs).model_copy(update=full | changes)


def shown(capsys: pytest.CaptureFixture[str], measurements: list[Measurement]) -> list[str]:
    bench_table.show("what", measurements)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("ms", [0.004, 0.8, 12.5, 99.999, 4321.0])
@pytest.mark.parametrize("swept", [False, True])
def test_tables_fit_and_no_cell_is_broken(ms: float, swept: bool, capsys: pytest.CaptureFixture[str]) -> None:
    batches = (1, 4096) if swept else (1,)
    measurements = [measured(ms, batch=batch, threads=128 if swept else 2) for batch in batches]
    lines = shown(capsys, measurements)
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.startswith("fp32 ") for line in lines) == 2 * len(batches)  # each row is one line
    assert "\x1b" not in "".join(lines)  # colours are for terminals


def test_what_nobody_knows_has_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    bare = "\n".join(shown(capsys, [of([MS] * 30)]))
    full = "\n".join(shown(capsys, [measured()]))
    for word in ("GPU mem", "decode", "mJ/img", "first"):
        assert word in full
        assert word not in bare
    assert "nodes, all on that provider: 111" in full


def test_made_up_inputs_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = "synthetic, from the declared shapes: x float32 1x3, standard normal"
    assert words in shown(capsys, [measured(inputs=words)])


def test_a_comparison_and_a_regression(capsys: pytest.CaptureFixture[str]) -> None:
    bench_table.show_comparisons("a", [Comparison("a", "b/" * 50, ((((100,),), ((200,),)),) * 4, measured().environment)])
    bench_table.show_regressions([Regression(of([2 * MS] * 20), of([MS] * 20), ("cpu was x, is y",))])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= WIDTH
    assert "100.0% slower" in out
    assert out.splitlines()[-2].split() == ["model.onnx", "1.000", "2.000", "2.000", "2.000", "to", "2.000"]
    assert "not the same machine: cpu was x, is y" in out


def test_markdown_is_a_table_that_names_do_not_break() -> None:
    hostile = "evil | <img src=x onerror=alert(1)> **bold** `code`\n# head.onnx"
    text = bench_table.markdown(hostile, [measured(), measured(precision="int8")], [])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert len({line.count("|") for line in rows}) == 1
    assert rows[1].startswith("| --- | ---: |")
    assert text.splitlines()[0].startswith(r"**evil \| \<img src=x onerror=alert(1)\> \*\*bold\*\* \`code\` # head.onnx**")
    with_before = bench_table.markdown("x", [of([2 * MS] * 20)], [Regression(of([2 * MS] * 20), of([MS] * 20), ())])
    assert "| against before |" in with_before
    assert "| 2.000 (2.000 to 2.000) |" in with_before


def test_csv_is_read_back(tmp_path: Path) -> None:
    measurements = [measured(what="=cmd()"), measured(2.0, what='a "quoted", name\nof two lines', watch=None, stages=None)]
    write_csv(tmp_path / "bench.csv", measurements)
    with (tmp_path / "bench.csv").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["what"], second["what"]) == ("'=cmd()", measurements[1].what)  # no spreadsheet computes a name
    for row, m in zip((first, second), measurements, strict=True):
        assert float(row["p95_ms"]) == pytest.approx(m.percentile_ms(95), abs=1e-4)
        assert (int(row["n"]), int(row["size_bytes"])) == (70, m.size_bytes)
    assert (second["decode_ms"], second["energy_mj_per_image"]) == ("", "")
    assert float(first["total_ms"]) == 3
