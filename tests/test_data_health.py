"""`tlx data`: planted copies, wrong labels, outliers and unreadable files are found; distinct images are left alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import here, process, tree
from photos import COPIES, photo
from PIL import Image
from scipy.stats import binom

from tlexport.api.finetune import FinetuneSettings, finetune
from tlexport.data import near_duplicates as search
from tlexport.data.confident_learning import suspicious_labels
from tlexport.data.demo import digits_folder
from tlexport.data.near_duplicates import near_duplicates
from tlexport.data.outliers import outliers
from tlexport.data.perceptual_hash import Looks, appearance
from tlexport.recipe import Recipe
from tlexport.storage.cache import cache_folder
from tlexport.train import cross_validation

SIDE = 64


def checked(capfd: pytest.CaptureFixture[str], data: Path | str, *options: str | Path) -> dict[str, Any]:
    """The JSON of `tlx data`, which must succeed."""
    ended = here(capfd, "data", data, "--json", "-q", "--threads", "1", "--device", "cpu", *options)
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def kinds(found: Mapping[str, Any]) -> set[str]:
    return {finding["kind"] for finding in found["findings"]}


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def looks(*images: Image.Image) -> Looks:
    return appearance(np.stack([np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images]))


def groups(found: Looks) -> list[list[int]]:
    return near_duplicates(found, np.zeros(len(found), bool))


# Near-duplicates


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_distinct_images_are_not(kind: str) -> None:
    originals = [photo(seed) for seed in range(60)]
    copies = [COPIES[kind](image) for image in originals[:20]]
    assert groups(looks(*originals)) == []
    found = {tuple(group) for group in groups(looks(*originals, *copies))}
    assert found <= {(index, 60 + index) for index in range(20)}
    assert len(found) >= 18


def test_mirrored_rotated_and_recoloured_images_are_other_images() -> None:
    image = photo(3)
    colours = Image.merge("RGB", (image.getchannel("B"), image.getchannel("R"), image.getchannel("G")))
    assert groups(looks(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.rotate(90), colours)) == []


def test_images_without_structure_are_compared_by_colour() -> None:
    plain = [Image.new("RGB", (20, 20), colour) for colour in ((250, 0, 0), (0, 0, 250), (251, 1, 0), (120, 120, 120))]
    assert groups(looks(*plain, photo(1))) == [[0, 2]]


def test_handwritten_digits_are_distinct(caches: Path) -> None:
    """1,797 digits of 8 x 8 pixels by 43 people, many of them hard to tell apart."""
    files = sorted(digits_folder(cache_folder() / "digits").glob("[0-9]/*.png"))
    found = looks(*(Image.open(file) for file in files))
    assert sum(map(len, near_duplicates(found, np.ones(len(found), bool)))) <= 0.01 * len(files)


def test_groups_do_not_depend_on_blocks_or_order(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [photo(seed // 3) if seed % 3 else COPIES["jpeg"](photo(seed // 3)) for seed in range(30)]
    order = np.random.default_rng(0).permutation(30)
    whole = groups(looks(*images))
    assert whole == [[3 * at, 3 * at + 1, 3 * at + 2] for at in range(10)]
    monkeypatch.setattr(search, "BLOCK", 4)
    shuffled = groups(looks(*(images[at] for at in order)))
    assert sorted(sorted(order[at] for at in group) for group in shuffled) == whole


def test_many_identical_images_are_one_group() -> None:
    one = looks(photo(0))
    assert groups(Looks(np.repeat(one.bits, 3000, axis=0), np.repeat(one.small, 3000, axis=0))) == [list(range(3000))]


def test_copies_across_parts_are_the_first_warning(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = tmp_path / "photos"
    for seed in range(40):
        save(photo(seed), data / "train" / "ab"[seed % 2] / f"{seed}.png")
    for seed in range(100, 116):
        save(photo(seed), data / "val" / "ab"[seed % 2] / f"{seed}.png")
    planted = {}
    for seed, (kind, copy) in enumerate(COPIES.items()):
        copied = copy(photo(seed))
        name = f"{kind}.{'jpg' if kind == 'jpeg' else 'png'}"
        save(copied, data / "val" / "ab"[seed % 2] / name)
        planted[f"val/{'ab'[seed % 2]}/{name}"] = f"train/{'ab'[seed % 2]}/{seed}.png"
    save(COPIES["smaller"](photo(20)), data / "train" / "b" / "torn.png")  # 20 is of class a
    found = checked(capfd, data)
    pairs = {tuple(sorted(image["path"] for image in group["images"])): group for group in found["duplicates"]}
    assert set(pairs) == {tuple(sorted(pair)) for pair in planted.items()} | {("train/a/20.png", "train/b/torn.png")}
    assert all(group["across_parts"] == ("val" in "".join(pair)) for pair, group in pairs.items())
    assert pairs[("train/a/20.png", "train/b/torn.png")]["classes_differ"]
    assert found["findings"][0]["kind"] == "leak" and found["findings"][0]["count"] == len(planted)
    assert found["findings"][0]["severity"] == "warning" and "remove" in found["findings"][0]["advice"]
    assert "conflict" in kinds(found)


# Labels


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory, caches: Path) -> tuple[Path, set[str]]:
    """The digits, one in twenty of them in a wrong folder: the folder, and the wrong files."""
    source, data = digits_folder(cache_folder() / "digits"), tmp_path_factory.mktemp("flipped") / "digits"
    files = sorted(source.glob("[0-9]/*.png"))
    random = np.random.default_rng(1)
    wrong = set(random.permutation(len(files))[: len(files) // 20].tolist())
    planted = set()
    for index, file in enumerate(files):
        label = int(file.parent.name)
        if index in wrong:
            label = int(label + random.integers(1, 10)) % 10
            planted.add(f"{label}/{file.name}")
        (data / str(label)).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, data / str(label))
    return data, planted


def test_wrong_labels_are_found(flipped: tuple[Path, set[str]], capfd: pytest.CaptureFixture[str]) -> None:
    """The held-out classifier is right in a share of the correct labels, and exposes about that share of the wrong ones."""
    data, planted = flipped
    found = checked(capfd, data)
    suspects = [one["path"] for one in found["labels"]["suspects"]]
    share = found["labels"]["accuracy"] / (1 - len(planted) / 1797)  # of correct labels
    hits = len(planted & set(suspects))
    assert share > 0.95
    # confident learning estimates the number of wrong labels by class pair and rounds it, which costs up to a quarter of the recall
    assert hits >= binom.ppf(0.001, len(planted), 0.75 * share)
    assert hits >= 0.8 * len(suspects)
    first = suspects[: len(planted) // 2]
    assert len(planted & set(first)) >= 0.95 * len(first)  # they are ranked
    assert "label" in kinds(found)
    originals = {path.name: path.parent.name for path in digits_folder(cache_folder() / "digits").glob("[0-9]/*.png")}
    named = [one for one in found["labels"]["suspects"] if one["path"] in planted]
    right = sum(one["suggested"] == originals[Path(one["path"]).name] for one in named)
    assert right >= 0.9 * len(named)  # the suggestion is the true class


def test_correct_labels_are_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    found = checked(capfd, "demo:digits")
    assert len(found["labels"]["suspects"]) <= 0.01 * found["images"]
    assert not kinds(found) & {"leak", "conflict", "imbalance", "few", "unreadable", "outlier"}


@pytest.mark.parametrize("certainty", [0.6, 0.9, 0.999])
def test_a_classifier_that_is_always_right_exposes_exactly_the_wrong_labels(certainty: float) -> None:
    random = np.random.default_rng(5)
    true = random.integers(0, 4, 400)
    labels = true.copy()
    wrong = random.permutation(400)[:30]
    labels[wrong] = (labels[wrong] + 1) % 4
    probabilities = np.full((400, 4), (1 - certainty) / 3)
    probabilities[np.arange(400), true] = certainty
    found = suspicious_labels(probabilities, labels)
    assert {suspect.index for suspect in found} == set(wrong.tolist())
    assert all(suspect.suggested == true[suspect.index] for suspect in found)
    margins = [suspect.margin for suspect in found]
    assert margins == sorted(margins)


def test_labels_with_nothing_to_find() -> None:
    assert suspicious_labels(np.zeros((0, 3)), np.zeros(0, np.int64)) == []
    assert suspicious_labels(np.eye(3), np.arange(3)) == []
    assert suspicious_labels(np.full((6, 3), 1 / 3), np.zeros(6, np.int64)) == []  # nothing is more probable than the label
    unused = np.array([[0.1, 0.2, 0.7]] * 8)  # no image has label 2, so it has no threshold
    assert all(suspect.suggested != 2 for suspect in suspicious_labels(unused, np.array([0, 1] * 4)))


# Outliers


def test_an_outlier_is_found_in_a_cloud_and_none_without_one() -> None:
    cloud = np.random.default_rng(0).normal(0, 1, (500, 16)).astype(np.float32)
    assert outliers(cloud) == []
    cloud[17] = 12
    assert [one.index for one in outliers(cloud)] == [17]
    assert outliers(np.ones((100, 4), np.float32)) == []  # identical images
    assert outliers(cloud[:10]) == []  # too few


def test_a_photo_among_digits_is_far(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = shutil.copytree(digits, tmp_path / "digits")
    save(photo(1), data / "3" / "holiday.png")
    assert [one["path"] for one in checked(capfd, data)["outliers"]][:1] == ["3/holiday.png"]


# Files, sizes, classes


def test_files_and_sizes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "mixed"
    for seed in range(33):
        save(photo(seed), data / "many" / f"{seed}.png")
    for seed in range(50, 53):
        save(photo(seed), data / "rare" / f"{seed}.png")
    save(photo(60, 400, 90), data / "many" / "panorama.png")
    save(photo(61, 40, 30), data / "many" / "tiny.png")
    (data / "empty").mkdir()
    (data / "many" / "broken.jpg").write_bytes((data / "many" / "0.png").read_bytes()[:200])
    (data / "many" / "notes.txt").write_text("text")
    found = checked(capfd, data, "-o", tmp_path / "report.html")
    assert [one["path"] for one in found["unreadable"]] == ["many/broken.jpg"]
    assert "damaged" in found["unreadable"][0]["reason"]
    assert kinds(found) >= {"unreadable", "few", "imbalance", "narrow", "small"}
    assert found["classes"]["rare"]["images"] == 3 and found["images"] == 38
    assert found["sizes"]["width"] == {"min": 40, "median": 160, "max": 400}
    assert found["sizes"]["height"] == {"min": 30, "median": 120, "max": 120}
    assert [one["path"] for one in found["sizes"]["narrow"]] == ["many/panorama.png"] and found["sizes"]["small"] == 1
    notes = " ".join(found["notes"])
    assert "empty" in notes and ".txt (1)" in notes
    assert all(finding["advice"] for finding in found["findings"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "many/</bdi>" not in page and "broken" in page and "data:image/jpeg" in page


def test_the_text_for_people_states_each_finding_with_advice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(4):
        save(photo(seed % 3), tmp_path / "d" / "ab"[seed % 2] / f"{seed}.png")
    ended = here(capfd, "data", tmp_path / "d", "--threads", "1")
    assert ended.code == 0 and "warning:" in ended.out and "hint:" in ended.out
    assert ended.out.count("advice:") == ended.out.count("warning:") + ended.out.count("hint:")


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"only/0.png": 0, "only/1.png": 1}, "one_class"),
        ({"a/0.png": 0, "b/0.png": 1}, "split"),
        ({f"class{n}/0.png": n for n in range(300)}, "split"),
        ({f"{'ab'[n % 2]}/{n}.png": 0 for n in range(60)}, "conflict"),
    ],
    ids=["one class", "two images", "a class for each image", "identical images"],
)
def test_degenerate_data_gets_an_answer(files: dict[str, int], kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, seed in files.items():
        save(photo(seed, 48, 48), tmp_path / "d" / name)
    found = checked(capfd, tmp_path / "d", "--report", tmp_path / "r.html")
    assert kind in kinds(found)
    assert (tmp_path / "r.html").stat().st_size > 5000
    assert found["labels"]["checked"] or found["labels"]["skipped"]


def test_nothing_in_the_data_is_changed(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = tree(digits)
    checked(capfd, digits)
    assert tree(digits) == before


# Requests


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--report", "page.txt"), 2, "--report data.html"),
        (("--backbone", "mobilenet_v3_smal"), 2, "mobilenet_v3_small"),
        (("--backbone", "resnet18"), 2, "no embedded weights for resnet18"),
        (("--weights", "missing.pth"), 2, "no such file"),
        (("--val-fraction", "0"), 2, "--val-fraction"),
        (("--seed", "-1"), 2, "--seed"),
        (("--image-size", "8"), 2, "--image-size"),
    ],
)
def test_wrong_options_are_refused(options: tuple[str, str], code: int, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    ended = here(capfd, "data", "nowhere", *options)
    assert (ended.code, ended.out) == (code, "")
    assert words in ended.err


def test_data_that_cannot_be_checked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d" / "a").mkdir(parents=True)
    assert here(capfd, "data", tmp_path / "nowhere").code == here(capfd, "data", tmp_path / "d").code == 2
    (tmp_path / "d" / "a" / "0.png").write_bytes(b"no image")
    ended = here(capfd, "data", tmp_path / "d")
    assert ended.code == 2 and "a/0.png" in ended.err


def test_a_mistyped_option_loads_no_torch(tmp_path: Path) -> None:
    code = "import sys\nfrom tlexport.cli.main import run\nprint(run(['data', 'd', '--backbone', 'nonsense']), 'torch' in sys.modules)"
    assert process(cwd=tmp_path, program=[sys.executable, "-P", "-c", code]).out == "2 False\n"


# Training


def test_a_training_notes_leaks_and_reports_the_health(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "photos"
    for seed in range(48):
        part = "val" if seed % 4 == 3 else "train"
        save(photo(seed), data / part / "ab"[seed % 2 if part == "train" else seed // 4 % 2] / f"{seed}.png")
    save(COPIES["jpeg"](photo(0)), data / "val" / "a" / "copy.jpg")
    options = ("--weights", "embedded", "--epochs", "2", "--threads", "1", "--device", "cpu", "-o", tmp_path / "run")
    ended = here(capfd, "finetune", data, *options)
    assert ended.code == 0, ended.err
    [note] = [line for line in ended.err.splitlines() if "near-identical" in line]
    assert "train/a/0.png = val/a/copy.jpg" in note and "1 group" in note
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Health of the data" in page and "health-alike" in page and "copy." in page
    clean = here(capfd, "finetune", digits, *options[:-1], tmp_path / "clean")
    assert clean.code == 0 and "near-identical" not in clean.err


def test_a_training_checks_the_labels_of_its_training_images(flipped: tuple[Path, set[str]], tmp_path: Path) -> None:
    data, planted = flipped
    recipe = Recipe(weights="embedded", epochs=4)
    path = finetune(str(data), recipe, tmp_path / "run", FinetuneSettings(device="cpu", threads=1)).path
    section = (path / "report.html").read_text(encoding="utf-8").partition('id="health-labels"')[2].partition("</ul>")[0]
    plain = section.replace("<wbr>", "")
    assert plain.count("<img") == 24
    assert sum(f">{name}<" in plain for name in planted) >= 22  # the likeliest are wrong
    assert "part <b><bdi>train" in plain and "part <b><bdi>val" in plain


def test_the_classifier_is_multinomial_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(2)
    targets = random.integers(0, 5, 300)
    inputs = (random.normal(0, 1, (5, 8))[targets] + random.normal(0, 1, (300, 8))).astype(np.float32)
    model = LogisticRegression(C=cross_validation.STRENGTH, max_iter=1000).fit(inputs, targets)
    weights = cross_validation._fitted(inputs, targets, 5)
    ours = cross_validation._softmax(cross_validation._with_ones(inputs) @ weights)
    assert np.abs(ours - model.predict_proba(inputs)).max() < 0.01


def test_no_image_is_predicted_by_a_classifier_that_saw_it() -> None:
    """With random labels, a classifier that saw the image would remember it; one that did not is right by chance."""
    random = np.random.default_rng(4)
    inputs, labels = random.normal(0, 1, (400, 100)).astype(np.float32), random.integers(0, 4, 400)
    found = cross_validation.cross_validated(inputs, labels, seed=0)
    assert found is not None and len(found.images) == 400
    right = int((found.probabilities.argmax(axis=1) == labels).sum())
    assert binom.ppf(1e-4, 400, 0.25) <= right <= binom.ppf(1 - 1e-4, 400, 0.25)
    assert np.allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)


def test_small_classes_are_not_cross_validated() -> None:
    labels = np.array([0] * 30 + [1] * 3 + [2] * 30)
    inputs = np.random.default_rng(0).normal(0, 1, (63, 4)).astype(np.float32)
    found = cross_validation.cross_validated(inputs, labels, seed=0)
    assert found is not None and found.classes.tolist() == [0, 2]
    assert 30 not in found.images and len(found.images) == 60
    assert cross_validation.cross_validated(inputs[:33], labels[:33], seed=0) is None
