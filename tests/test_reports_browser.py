"""Reports in a real browser: no requests, no console messages, no clipped or low-contrast text.

TLX_SCREENSHOTS=FOLDER saves screenshots.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import reports
from commands import here
from PIL import Image

from tlexport.bundle.manifest import read_manifest
from tlexport.checkpoint import REPORT, read_checkpoint
from tlexport.measurement import Measurement
from tlexport.report.text import number

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHOUT = "Chromium (Debian: apt-get install chromium)" if CHROMIUM is None else ""
WITHOUT = WITHOUT or ("" if importlib.util.find_spec("playwright") else "playwright (pip install '.[test]')")
PHONE, DESKTOP, PAPER = 390, 1280, 718  # CSS pixels; A4 without margins
PATIENCE = 120_000  # ms: the machine may be busy
TOO_FAINT = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const over = (under, top) => {
    canvas.globalAlpha = 1; canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1); canvas.fillStyle = top; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data; return `rgb(${r}, ${g}, ${b})`;
  };
  const luminance = colour => numbers(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const known = new Map([[null, 'rgb(255, 255, 255)']]);
  const behind = element => {
    if (!known.has(element)) known.set(element, over(behind(element.parentElement), getComputedStyle(element).backgroundColor));
    return known.get(element);
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!text || element.closest('title, desc, style') || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), under = behind(element);
    const [a, b] = [luminance(element.closest('svg') ? style.fill : over(under, style.color)), luminance(under)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([text.slice(0, 40), ratio]);
  }
  return found;
}"""

BROKEN_WORDS = """() => {
  const found = [];
  for (const element of document.querySelectorAll('h1, h2, h3, thead th, figcaption')) {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) for (const word of walker.currentNode.data.matchAll(/[^\\s\\/_.-]+/g)) {
      const range = document.createRange();
      range.setStart(walker.currentNode, word.index); range.setEnd(walker.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) found.push(word[0]);
    }
  }
  return found;
}"""
HIDDEN = """() => [...document.querySelectorAll('main *')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !element.closest('.scroll, svg, bdi');
}).map(element => element.outerHTML.slice(0, 80))"""


class Opened(NamedTuple):
    """A page, with its requests and messages."""

    page: Page
    complaints: list[str]  # console messages, errors, dialogs
    asked: list[str]  # addresses


pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=f"there is no {WITHOUT}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, timeout=PATIENCE)
        yield found
        found.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("TLX_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


def opened(browser: Browser, file: Path, width: int, scheme: Any) -> Opened:
    """A report as a reader without a network opens it."""
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    found = Opened(context.new_page(), [], [])
    found.page.on("console", lambda message: found.complaints.append(message.text))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("dialog", lambda dialog: (found.complaints.append(dialog.message), dialog.dismiss()))
    found.page.on("request", lambda request: found.asked.append(request.url))
    found.page.goto(file.as_uri())
    return found


def look(browser: Browser, file: Path, picture: Path, name: str) -> str:
    """What holds of every report, at the width of a phone and of a desk, in the light and in the dark; the text of the page."""
    for width, scheme in ((PHONE, "light"), (PHONE, "dark"), (DESKTOP, "light"), (DESKTOP, "dark")):
        page, complaints, asked = opened(browser, file, width, scheme)
        if scheme == "light" or width == DESKTOP:
            page.screenshot(path=picture / f"{name}-{width}-{scheme}.png", full_page=True, animations="disabled")
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert width == DESKTOP or page.evaluate(TOO_FAINT) == []  # colours do not depend on the width
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.scripts.length") == 0
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert (complaints, [url for url in asked if not url.startswith("data:")]) == ([], [file.as_uri()])
        text = str(page.locator("body").inner_text())
        page.context.close()
    return text


@pytest.mark.parametrize(
    "name", ["bench-full", "bench-thousand", "bench-hostile", "compare-hostile", "finetune-thousand", "finetune-hostile"]
)
def test_a_report_in_a_browser(name: str, browser: Browser, pictures: Path, folder: Path) -> None:
    file = folder / f"{name}.html"
    file.write_text(reports.page(name), encoding="utf-8")
    text = look(browser, file, pictures, name)
    assert "Accuracy of each class" in text or "Method" in text
    if "thousand" in name and "finetune" in name:
        assert reports.THOUSAND[0] in text and reports.THOUSAND[999] in text
    if "hostile" in name:
        assert all(" ".join(stranger.split()) in " ".join(text.split()) for stranger in reports.HOSTILE_CLASSES if stranger.isprintable())


def test_the_report_of_a_real_bundle(
    bundle: Path, browser: Browser, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.html"
    ended = here(capfd, "bench", bundle, "--runs", "30", "--seconds", "0", "--threads", "1", "--report", file, "--json")
    assert ended.code == 0, ended.err
    assert str(file) in ended.err
    text = look(browser, file, pictures, "real-bundle")
    measured = [
        Measurement.model_validate({k: v for k, v in row.items() if k in Measurement.model_fields}) for row in json.loads(ended.out)
    ]
    assert len(measured) == len(read_manifest(bundle).models)
    for one in measured:
        assert number(one.percentile_ms(50), 4) in text
        assert one.environment.cpu in text
    assert "real images" in text

    page = opened(browser, file, DESKTOP, "light").page
    with page.expect_download() as download:
        page.get_by_role("link", name="Download bench.json").click()
    assert download.value.suggested_filename == "bench.json"
    assert [row["latencies_ns"] for row in json.loads(download.value.path().read_text())] == [list(one.latencies_ns) for one in measured]
    page.context.close()


def test_the_report_of_a_real_training(checkpoint: Path, browser: Browser, pictures: Path) -> None:
    text = look(browser, checkpoint / REPORT, pictures, "real-training")
    record = read_checkpoint(checkpoint)
    assert f"{100 * record.metrics['val_top1']:.1f} %" in text
    assert f"{record.frozen.parameters:,} of {record.frozen.total_parameters:,}" in text
    steps = re.sub(r"\s+", " ", text.partition("Steps of this run")[2])
    assert "reading images" in steps and "training head" in steps and "validating" in steps


@pytest.mark.parametrize("name", ["bench-full", "bench-against", "compare-long", "finetune-long"])
def test_on_a_phone(name: str, browser: Browser, pictures: Path, folder: Path) -> None:
    """Nothing is wider than the screen; a wide table scrolls by itself under a shadow at its edge; no word of a heading is broken."""
    file = folder / f"{name}.html"
    file.write_text(reports.page(name), encoding="utf-8")
    page = opened(browser, file, PHONE, "light").page
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.screenshot(path=pictures / f"{name}-phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert page.evaluate(HIDDEN) == []
    assert [word for word in page.evaluate(BROKEN_WORDS) if word not in reports.LONG_CLASSES] == []
    assert not any(path in page.locator("h1").inner_text() for path in reports.LONG_PATHS)
    wide = [table for table in page.locator(".scroll").all() if table.evaluate("e => e.scrollWidth > e.clientWidth + 1")]
    assert wide
    shades = np.asarray(Image.open(io.BytesIO(wide[0].screenshot())).convert("L"))
    assert np.median(shades[:, -3]) < np.median(shades[:, -40]) - 30
    wide[0].evaluate("e => e.scrollLeft = e.scrollWidth")
    ended = np.asarray(Image.open(io.BytesIO(wide[0].screenshot())).convert("L"))
    assert np.median(ended[:, -3]) > np.median(shades[:, -3]) + 30  # at the end there is no more
    page.context.close()


@pytest.mark.parametrize("name", ["bench-full", "finetune-few"])
def test_on_paper(name: str, browser: Browser, pictures: Path, folder: Path) -> None:
    """In black on white even where the screen is dark, and not wider than a sheet."""
    file = folder / f"{name}.html"
    file.write_text(reports.page(name), encoding="utf-8")
    page = opened(browser, file, PAPER, "dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
    assert page.evaluate(TOO_FAINT) == []
    (pictures / f"{name}.pdf").write_bytes(page.pdf(format="A4"))
    assert not page.get_by_role("link", name=re.compile("Download")).is_visible()
    page.context.close()
