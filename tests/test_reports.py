"""Reports as files: complete, safe with any names, and with correct figures. Browser tests: test_reports_browser.py."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reports
from commands import here
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from tlexport.accuracy import reliability
from tlexport.api.compare import to_json
from tlexport.bundle.manifest import wilson
from tlexport.health.findings import health_json
from tlexport.measurement import Measurement
from tlexport.report.bench import Conditions, bench_report
from tlexport.report.candidates import candidates, frontier
from tlexport.report.svg import drawing, label
from tlexport.report.text import number, plain
from tlexport.report.training import SHOWN_IMAGES, confused, mistakes
from tlexport.report.verdict import judge

NAMES = reports.NAMES
VOID = {"meta", "link", "br", "img", "wbr"}


class Page(HTMLParser):
    """A page's tags and text, held to the rule that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for found, attributes in self.tags if found == tag]


# --- every page -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_page_loads_nothing_and_runs_nothing(name: str) -> None:
    page = Page(reports.page(name))
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "form", "input", "base", "foreignobject", "image"}
    for tag, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")], (tag, attributes)
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (tag, attributes)
        assert not re.search(r"url\((?!#)|@import|expression", attributes.get("style", "")), attributes
    [policy] = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script" not in policy
    assert not re.search(r"url\((?!#)|@import", reports.page(name).partition("</style>")[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_page_can_be_read_aloud(name: str) -> None:
    page = Page(reports.page(name))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) - len(page.all("svg")) == 1
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(identities)) == len(identities)
    for tag, attributes in page.tags:
        for reference in attributes.get("aria-labelledby", "").split():
            assert reference in identities, (tag, attributes)
        assert not attributes.get("href", "").startswith("#") or attributes["href"][1:] in identities
        drawn = " ".join(attributes.get(key, "") for key in ("style", "clip-path", "fill"))
        assert set(re.findall(r"url\(#([^)]*)\)", drawn)) <= set(identities)
    assert page.all("svg") and all(svg["role"] == "img" and svg["aria-labelledby"] for svg in page.all("svg"))
    assert all(image["alt"] for image in page.all("img"))
    tags = [tag for tag, _ in page.tags]
    assert [tags[place + 1] for place, tag in enumerate(tags) if tag == "table"] == ["caption"] * tags.count("table")
    assert all("scope" in heading for heading in page.all("th"))
    assert tags.count("table") > tags.count("figure")  # each plot has a table


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_what_utf_8_can_hold_without_control_characters(name: str) -> None:
    text = reports.page(name).encode("utf-8").decode("utf-8")
    assert plain(text) == text
    assert "{{" not in text.replace(html.escape("{{ 7 * 7 }}{% raw %}"), "").replace("{{ 7 * 7 }}{% raw %}", "")
    assert "mathdefault" not in text


@pytest.mark.parametrize("name", NAMES)
def test_plots_have_the_colours_of_the_page_and_text_that_is_text(name: str) -> None:
    page = reports.page(name)
    for svg in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        styles = re.findall(r'style="([^"]*)"', svg)
        assert not [style for style in styles if re.search(r"#[0-9a-f]{3,8}", style.replace("url(#", "("))], styles
        assert "var(--ink)" in svg and "var(--series-1)" in svg
        assert len(re.findall("<text", svg)) >= 4  # axes and figures
        assert "width=" not in svg.partition(">")[0]  # it is as wide as there is room


# --- hostile names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bench-hostile", "compare-hostile", "finetune-hostile", "data-hostile"])
def test_names_of_strangers_stay_text(name: str) -> None:
    page, plain_tags = (
        Page(reports.page(name)),
        {tag for other in NAMES if "hostile" not in other for tag, _ in Page(reports.page(other)).tags},
    )
    assert {tag for tag, _ in page.tags} <= plain_tags
    for given_name in reports.HOSTILE_CLASSES if name.startswith(("finetune", "data")) else reports.HOSTILE:
        assert plain(given_name) in page.text
    assert "window.hacked" not in re.sub(r"[^<>]*", "", reports.page(name))


@settings(max_examples=6)  # each is a drawing
@given(st.lists(st.text(max_size=60), min_size=5, max_size=5))
def test_any_text_in_a_plot_is_that_text(texts: list[str]) -> None:
    with drawing("any", texts[0], texts[1]) as (plot, axes):
        for place, text in enumerate(texts):
            axes.annotate(label(text), (0, place))
        axes.set_ylim(-1, 5)
    found = Page(f"<div>{plot.svg}</div>")
    assert all(label(text) in " ".join(found.text.split()) for text in texts)
    assert {tag for tag, _ in found.tags} <= {
        "div",
        "svg",
        "title",
        "desc",
        "g",
        "path",
        "defs",
        "use",
        "text",
        "tspan",
        "clippath",
        "rect",
    }


@pytest.mark.parametrize("name", [name for name in NAMES if "hostile" in name])
def test_the_download_holds_what_the_page_is_about(name: str) -> None:
    [data] = reports.downloads(reports.page(name))
    if name.startswith("finetune"):
        assert tuple(data["checkpoint"]["classes"]) == reports.HOSTILE_CLASSES
        assert set(data["per_class"]) == set(reports.HOSTILE_CLASSES)
    elif name.startswith("data"):
        assert data == json.loads(json.dumps(health_json(reports.health(reports.HOSTILE_CLASSES, reports.HOSTILE[2]))))
    elif name.startswith("compare"):
        assert data == json.loads(json.dumps(to_json(reports.comparisons(reports.HOSTILE))))
    else:
        assert Measurement.parse(data[0], "the download") == reports.measurement()


@pytest.mark.parametrize("name", [name for name in NAMES if "hostile" in name])
def test_no_name_turns_the_text_around_it(name: str) -> None:
    """Within a bdi element too: one that opens an isolate and does not close it takes the end of the element for its own."""
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", reports.page(name))


# --- bench ------------------------------------------------------------------------------------------------------------------------


def test_the_raw_data_is_the_measurements() -> None:
    [data] = reports.downloads(reports.page("bench"))
    assert [Measurement.parse(one, "the download") for one in data] == [reports.measurement(p) for p in ("fp32", "fp16", "int8")]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_figures_are_those_of_the_measurement(precision: str) -> None:
    text, measured = Page(reports.page("bench")).text, reports.measurement(precision)
    for percent in (50, 90, 95, 99):
        assert number(measured.percentile_ms(percent), 4) in text
    low, high = measured.mean_interval_ms()
    assert f"{number(round(low, 4), 4)} to {number(round(high, 4), 4)}" in text
    assert number(measured.throughput_per_s, 4) in text


def test_a_report_says_what_became_slower_and_that_the_machine_is_another() -> None:
    text = Page(reports.page("bench-against")).text
    assert "1.125" in text and "1.1 to 1.15" in text and "12.5% slower" in text and "no real difference" in text
    assert "Not the same machine. cpu was x, is y" in text
    assert "earlier" not in reports.page("bench").partition("</style>")[2].partition("Raw data")[0]


def test_the_figures_of_a_comparison() -> None:
    [comparison], text = reports.comparisons(("a.onnx", "b.onnx")), Page(reports.page("compare")).text
    found, (one, other) = comparison.interval, comparison.to_json()["p50_ms"]
    for figure in (found.ratio, one, other):
        assert number(figure, 4) in text
    assert f"{number(found.low, 4)} to {number(found.high, 4)}" in text
    assert f"b.onnx: {found.in_words()} than a.onnx" in " ".join(text.split())
    assert found.low < 1.1 < found.high  # a tenth was planted


@pytest.mark.parametrize(
    ("changes", "on_target", "kept", "says"),
    [
        ({}, True, "kept", "is within the budget of cpu-x86"),
        ({"latencies_ns": (200_000_000,) * 20}, True, "broken", "p95 latency is 200 ms, the limit is 100 ms"),
        ({"peak_memory_bytes": 10**9}, True, "broken", "memory is 1.00 GB, the limit is 500.00 MB"),
        ({"latencies_ns": (200_000_000,) * 20}, False, "unknown", "this machine is not cpu-x86"),
        ({"batch": 4}, True, "unknown", "batches of several images"),
        ({"provider": "CUDAExecutionProvider"}, True, "unknown", "the budget is for the CPU"),
        ({"runtime": "trtexec"}, True, "unknown", "tensorrt was measured, and the budget is for onnxruntime"),
        ({"artifact_sha256": "f" * 64}, True, "unknown", "it was not measured"),
    ],
)
def test_the_verdict(changes: dict[str, Any], on_target: bool, kept: str, says: str) -> None:
    measured = reports.measurement(**changes)
    found = judge(reports.manifest(), [measured], on_target=on_target)
    assert found.kept == kept
    assert says in found.sentence


@pytest.mark.parametrize(("on_target", "kept"), [(True, "kept"), (True, "broken"), (False, "unknown")])
def test_the_verdict_comes_first(on_target: bool, kept: str) -> None:
    measured = reports.measurement(latencies_ns=(200_000_000 if kept == "broken" else 10**6,) * 20)
    page = bench_report("bundle", [measured], reports.manifest(), conditions=Conditions(on_target=on_target))
    assert f'class="verdict {kept}"' in page
    sentence = judge(reports.manifest(), [measured], on_target=on_target).sentence
    assert html.unescape(page).index(sentence) < page.index("<table")


@pytest.mark.parametrize(("p95_ms", "word"), [(1, "Within the budget"), (200, "Over the budget")])
def test_a_verdict_from_a_noisy_machine_is_qualified(p95_ms: int, word: str) -> None:
    measured = reports.measurement(latencies_ns=(p95_ms * 10**6,) * 20)
    cause = {measured.artifact_sha256: "the runs scatter"}
    conditions = Conditions(on_target=True, noise=cause)
    page = html.unescape(bench_report("bundle", [measured], reports.manifest(), conditions=conditions))
    assert f'class="verdict unknown"><span class="word">{word}, measured on a noisy machine.</span>' in page
    assert "Noisy measurement: the runs scatter." in page
    assert f"{'within' if p95_ms == 1 else 'over'}: on a noisy machine" in page
    elsewhere = judge(reports.manifest(), [measured], on_target=False, noise=cause)
    assert (elsewhere.kept, elsewhere.noise) == ("unknown", "")  # no latency was judged


def test_a_file_that_is_too_large_breaks_the_budget_wherever_it_was_measured() -> None:
    manifest = reports.manifest()
    small = manifest.profile.model_copy(update={"budget": manifest.profile.budget.model_copy(update={"size": "1 MB"})})
    found = judge(manifest.model_copy(update={"profile": small}), [reports.measurement()], on_target=False)
    assert (found.kept, "file size is 6.00 MB, the limit is 1.00 MB" in found.sentence) == ("broken", True)


def test_energy_is_held_against_its_limit() -> None:
    manifest, measured = reports.manifest(), reports.measurement(**reports.full("x"))
    energy = 5.5 * measured.mean_ms  # mJ: the watts of full() times the mean time
    for limit, kept in ((1.01 * energy, "kept"), (0.99 * energy, "broken")):
        budget = manifest.profile.budget.model_copy(update={"energy": f"{limit} mJ"})
        profile = manifest.profile.model_copy(update={"budget": budget})
        assert judge(manifest.model_copy(update={"profile": profile}), [measured], on_target=True).kept == kept


def test_every_candidate_is_shown_with_where_its_latency_is_from() -> None:
    found = candidates([reports.measurement("fp32")], reports.manifest())
    assert [(c.name, c.source, c.chosen) for c in found] == [
        ("FP32", "measured", True),
        ("FP16", "unknown", False),
        ("INT8", "unknown", False),
        ("INT8, by /layer/conv", "unknown", False),
    ]
    assert found[0].p95_ms == reports.measurement("fp32").percentile_ms(95)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=30))
def test_the_frontier_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    kept = {points[i] for i in frontier(points)}
    beaten = {(x, y) for x, y in points if any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)}
    assert kept == set(points) - beaten


def test_stages_layers_placement_and_the_machine_are_shown_where_they_are_known() -> None:
    headings = ("Time of each stage", "The slowest layers", "Execution providers", "State of the machine")
    without, complete = (Page(reports.page(name)).text for name in ("bench", "bench-full"))
    assert not [heading for heading in headings if heading in without]
    assert not [heading for heading in headings if heading not in complete]
    assert "120" in complete and "25.0 %" in complete and "of 57 layers" in complete
    assert "68.2 %" in complete  # of 3, 0.5 and 0.9 ms: decoding
    assert "a noisy machine" in complete and "synthetic: conv" in complete


def test_a_sweep_names_what_differs() -> None:
    text = Page(reports.page("bench-sweep")).text
    assert all(f"FP32, batch {batch}, {threads} threads" in text for batch in (1, 4) for threads in (1, 2))


def test_what_is_not_known_of_a_strangers_model_is_not_made_up() -> None:
    text = Page(reports.page("bench-foreign")).text
    assert "No verdict." in text and "neither a budget nor a known accuracy" in text
    assert "Accuracy against" not in text


@pytest.mark.parametrize("name", ["bench.txt", "bench", "."])
def test_a_report_that_is_no_page_is_refused_before_anything_is_measured(
    name: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended = here(capfd, "bench", tmp_path / "nothing", "--report", tmp_path / name)
    assert ended.code == 2 and "--report bench.html" in ended.err and "nothing" not in ended.err


# --- fine-tuning --------------------------------------------------------------------------------------------------------------------


def test_the_calibration_plot_sums_up_to_the_calibration_error() -> None:
    found = reports.validated(reports.FEW)
    bins = reliability(found.outputs, found.labels)
    assert sum(b.n for b in bins) == len(found.labels)
    assert all(b.low <= b.confidence <= b.high for b in bins)
    assert sum(b.n * abs(b.confidence - b.accuracy) for b in bins) / len(found.labels) == pytest.approx(found.scores.ece)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (90, 100), (1, 1000)])
def test_the_interval_of_the_accuracy_is_wilsons(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_images_it_got_most_wrong_come_first() -> None:
    given_images = reports.validated(reports.FEW)
    found = mistakes(given_images)
    wrong = int((given_images.outputs.argmax(1) != np.asarray(given_images.labels)).sum())
    assert len(found) == min(SHOWN_IMAGES, wrong) > 5
    own = [mistake.probability_of_true for mistake in found]
    assert own == sorted(own)
    assert all(mistake.true != mistake.predicted for mistake in found)
    assert own[0] == min(given_images.outputs[i, label] for i, label in enumerate(given_images.labels))
    for mistake in found[:3]:
        assert mistake.file.startswith(mistake.true)
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(mistake.link.partition(",")[2]))), dtype=int)
        index = given_images.files.index(mistake.file)
        assert np.abs(shown - given_images.pixels(index)).max() <= 4  # JPEG
        assert np.abs(shown - given_images.pixels(index - 1)).mean() > 20


def test_confused_pairs_are_the_largest_off_the_diagonal() -> None:
    confusion = np.array([[50, 3, 0], [7, 20, 3], [0, 0, 0]])
    found = [(pair.true, pair.predicted, pair.n, round(pair.share, 3)) for pair in confused(confusion, "abc")]
    assert found == [("b", "a", 7, 0.233), ("a", "b", 3, 0.057), ("b", "c", 3, 0.1)]


def test_a_thousand_classes_are_pairs_and_a_folded_table() -> None:
    page, few = reports.page("finetune-thousand"), reports.page("finetune-few")
    assert "is too large to show" in page and 'class="matrix"' not in page and 'class="matrix"' in few
    assert all(name in page for name in reports.THOUSAND)
    assert "The other 980 classes" in page
    assert len(page) < 1_000_000


def test_what_was_frozen_and_the_time_of_each_phase() -> None:
    text = " ".join(Page(reports.page("finetune-few")).text.split())
    assert "stem, stage1" in text and "900,000 of 1,500,000" in text and "60.0 %" in text
    assert re.search(r"head\s*3\s*0\.003\s*3\.75", text) and re.search(r"\+top\s*3\s*0\.003\s*3\.75", text)  # 3 epochs of 1.25 s each
