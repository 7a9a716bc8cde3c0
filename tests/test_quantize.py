"""Calibration of an export: selection of images and of the range method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from exports import PROFILES, exported, run
from graphs import noise, small

from tlexport import plugins
from tlexport.artifact import Tried
from tlexport.checkpoint import read_checkpoint, read_dataset
from tlexport.data.decode import decode_files
from tlexport.data.demo import digits_folder
from tlexport.dataset import Dataset, Sample
from tlexport.export.calibration import MIN_CALIBRATION_IMAGES
from tlexport.export.ranges import METHODS, Ranges
from tlexport.export.tensorrt_rules import check_tensorrt
from tlexport.hardware.profile import Profile
from tlexport.hardware.target import resolve
from tlexport.optimize.accuracy_recovery import AccuracyRecovery, QuantizationInput
from tlexport.optimize.mixed_precision import Evaluated, back_to_float, blocks_of
from tlexport.optimize.quantize import Quantization, QuantizationSettings
from tlexport.ports import Pixels, QuantizeRequest, Silent
from tlexport.storage.cache import cache_folder
from tlexport.storage.files import sha256_of

# one profile for each quantizer of INT8
WITH_INT8 = {int8.quantizer: name for name in PROFILES if (int8 := resolve(name).profile.int8) is not None}
EACH = 20  # training images of each class: enough for a choice


@pytest.fixture(scope="module")
def many(checkpoint: Path) -> Dataset:
    """Digits that the checkpoint was not trained with, as if it had been; each class has some for validation too."""
    everything, classes = digits_folder(cache_folder() / "digits"), read_dataset(checkpoint).classes
    samples = []
    for label, name in enumerate(classes):
        for number, file in enumerate(sorted((everything / name).iterdir(), reverse=True)[: EACH + 4]):
            part = "train" if number < EACH else "val"
            samples.append(Sample.model_validate({"path": f"{name}/{file.name}", "label": label, "part": part, "sha256": sha256_of(file)}))
    return Dataset(source="digits", root=str(everything), classes=classes, samples=tuple(samples))


class Images:
    """Decodes samples and remembers which."""

    def __init__(self, dataset: Dataset, checkpoint: Path) -> None:
        self.dataset, self.preprocess = dataset, read_checkpoint(checkpoint).preprocess
        self.seen: list[Sample] = []

    def __call__(self, samples: Sequence[Sample]) -> Pixels:
        self.seen += samples
        return decode_files([self.dataset.file(sample) for sample in samples], self.preprocess)[0]


def quantization(checkpoint: Path, profile: Profile, dataset: Dataset, images: Images, folder: Path) -> Quantization:
    graph = exported(checkpoint, profile.name).graph("fp32")
    return Quantization(graph, QuantizationSettings(profile, dataset, 0, images, 100.0, folder, Silent()))


@pytest.mark.parametrize("name", WITH_INT8.values(), ids=WITH_INT8)
def test_the_method_that_serves_best_is_kept(checkpoint: Path, many: Dataset, name: str, tmp_path: Path) -> None:
    profile, images = resolve(name).profile, Images(many, checkpoint)
    found = quantization(checkpoint, profile, many, images, tmp_path)
    made = found.quantized("int8")
    assert {sample.part for sample in images.seen} == {"train"}
    assert not set(found.calibrating) & set(found.choosing)
    for part in (found.calibrating, found.choosing):
        assert set(Counter(sample.label for sample in part).values()) == {EACH // 2}
    assert made.calibration is not None
    assert made.calibration.images == len(found.calibrating)
    assert [tried.method for tried in made.calibration.tried] == list(METHODS)
    best = min(made.calibration.tried, key=lambda tried: (-tried.top1, tried.divergence))
    assert made.calibration.method == best.method
    # the figures, once more by another way
    assert profile.int8 is not None
    quantizer = plugins.quantizer(profile.int8.quantizer)
    ranges, pixels = Ranges(found.graph, images(found.calibrating)), images(found.choosing)
    labels = [sample.label for sample in found.choosing]
    reference = run(found.graph, pixels).astype(np.float64)
    for tried in made.calibration.tried:
        method = next(method for method in METHODS if method == tried.method)
        request = QuantizeRequest(found.graph, ranges.by(method), profile.int8.activations, float_weights=profile.float_weights)
        model = quantizer.quantize(request)
        outputs = run(model, pixels, as_written=profile.runtime == "tensorrt").astype(np.float64)
        assert tried.top1 == pytest.approx(np.mean(outputs.argmax(axis=1) == labels))
        expected = (reference * (np.log(np.maximum(reference, 1e-9)) - np.log(np.maximum(outputs, 1e-9)))).sum(axis=1).mean()
        assert tried.divergence == pytest.approx(expected, abs=1e-4)
        if method == best.method:
            assert model.SerializeToString(deterministic=True) == made.model.SerializeToString(deterministic=True)


def test_few_images_all_set_ranges(checkpoint: Path, many: Dataset, tmp_path: Path) -> None:
    train, val = many.part("train"), many.part("val")
    few = many.model_copy(update={"samples": (*train[: 2 * MIN_CALIBRATION_IMAGES - 1], *val)})
    images = Images(few, checkpoint)
    made = quantization(checkpoint, resolve("cpu-x86").profile, few, images, tmp_path).quantized("int8")
    assert set(images.seen) == set(train[: 2 * MIN_CALIBRATION_IMAGES - 1])
    assert made.calibration is not None
    assert (made.calibration.method, made.calibration.tried, made.calibration.images) == ("minmax", (), 2 * MIN_CALIBRATION_IMAGES - 1)


def test_images_are_decoded_once_for_all_precisions(checkpoint: Path, many: Dataset, tmp_path: Path) -> None:
    images = Images(many, checkpoint)
    found = quantization(checkpoint, resolve("jetson-orin-nano").profile, many, images, tmp_path)
    for precision in ("fp16", "int8"):
        calibration = found.quantized(precision).calibration
        assert calibration is not None
        assert calibration.images == len(found.calibrating)
    assert max(Counter(sample.path for sample in images.seen).values()) == 1


# --- mixed precision --------------------------------------------------------------------------------------------------


def test_blocks_divide_what_may_be_quantized(checkpoint: Path) -> None:
    graph = exported(checkpoint, "cpu-x86").graph("fp32")
    kinds = {node.name: node.op_type for node in graph.graph.node}
    blocks = blocks_of(graph)
    for name, block in blocks.items():
        assert [member for member in block if kinds[member] in ("Conv", "Gemm", "MatMul")] == [name]
    names = [node.name for node in graph.graph.node]
    first = names.index(next(iter(blocks)))
    assert sorted(name for block in blocks.values() for name in block) == sorted(n for n in names[first:] if kinds[n] != "Softmax")


def sabotaged(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The same function with one channel between two convolutions a thousand times as large as the others; and these two's names.

    With one scale for all channels of the activation, INT8 has nothing left for the others. For TensorRT only what the second one reads
    is quantized.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {node.output[0]: node for node in model.graph.node}
    for reader in model.graph.node:
        relu = made_by.get(reader.input[0]) if reader.op_type == "Conv" else None
        maker = made_by.get(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
        if maker is None or maker.op_type != "Conv" or len(maker.input) < 3 or weights[reader.input[1]].dims[0] < 32:
            continue
        if weights[reader.input[1]].dims[1] != 1 or reader.input[1] == maker.input[1]:
            continue  # the test needs a depthwise one, whose first filter reads only the first channel
        for node, factor in ((maker, 1000.0), (reader, 0.001)):
            for name in node.input[1:3] if node is maker else node.input[1:2]:
                values = onnx.numpy_helper.to_array(weights[name]).copy()
                values[0] *= factor
                weights[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
        return model, [maker.name, reader.name]
    raise AssertionError("there is no such place")


@pytest.mark.parametrize("name", WITH_INT8.values(), ids=WITH_INT8)
def test_the_ladder_is_climbed_until_int8_loses_no_more_than_it_may(checkpoint: Path, many: Dataset, name: str, tmp_path: Path) -> None:
    """Equalization repairs this fault, so later steps are not tried."""
    profile, images = resolve(name).profile, Images(many, checkpoint)
    graph, _ = sabotaged(exported(checkpoint, name).graph("fp32"))
    settings = QuantizationSettings(profile, many, 0, images, 100.0, tmp_path, Silent())
    whole = Quantization(graph, settings).quantized("int8")
    assert [(rung.rung, rung.kept) for rung in whole.ladder] == [("calibration", True)]
    climbed = Quantization(graph, replace(settings, drop_points=1.0)).quantized("int8")
    assert [rung.rung for rung in climbed.ladder] == [
        "calibration",
        "bias correction",
        "equalization",
        "equalization and bias correction",
    ]
    [kept] = [rung for rung in climbed.ladder if rung.kept]
    assert kept.rung in ("equalization", "equalization and bias correction")
    assert kept.top1 == max(rung.top1 for rung in climbed.ladder)
    assert kept.divergence < 0.1 * climbed.ladder[0].divergence
    assert kept.size_bytes == climbed.model.ByteSize()
    assert climbed.mixed is None
    assert kept.rung in climbed.how


def test_every_rung_is_tried_where_none_is_enough() -> None:
    """Only the judge is replaced: no model is good enough for it, and INT8 weights only are the best."""
    graph, retrained = small(), small()
    ranges = Ranges(graph, noise(4))

    def judge(form: QuantizationInput) -> Evaluated:
        top1 = 0.8 if form.weight_only else 0.7 if form.graph is retrained else 0.5
        return Evaluated(form.graph, Tried(method=form.method, top1=top1, divergence=0.1))

    ladder = AccuracyRecovery(graph, ranges, judge, 0.9, noise(4), lambda: retrained, True, lambda model: 1.5, Silent())
    climbed = ladder.run(frozenset())
    assert [rung.rung for rung in climbed.rungs] == [
        "calibration",
        "bias correction",
        "equalization",
        "equalization and bias correction",
        "quantization-aware training",
        "weights alone",
    ]
    assert climbed.best.rung == "weights alone"
    assert [rung.rung for rung in climbed.rungs if rung.kept] == ["weights alone"]
    assert {rung.latency_ms for rung in climbed.rungs} == {1.5}
    assert len(climbed.tried) == len(METHODS)


@pytest.mark.parametrize("name", WITH_INT8.values(), ids=WITH_INT8)
def test_blocks_that_int8_harms_go_back_to_float(checkpoint: Path, many: Dataset, name: str) -> None:
    profile, images = resolve(name).profile, Images(many, checkpoint)
    graph, broken = sabotaged(exported(checkpoint, name).graph("fp32"))
    assert profile.int8 is not None
    quantizer, activations = plugins.quantizer(profile.int8.quantizer), profile.int8.activations
    train, val = images(many.part("train")), images(many.part("val"))
    np.testing.assert_allclose(run(graph, val), run(exported(checkpoint, name).graph("fp32"), val), atol=1e-3)
    ranges, reference = Ranges(graph, train).whole, run(graph, val)

    def judge(kept: frozenset[str]) -> Evaluated:
        model = quantizer.quantize(QuantizeRequest(graph, ranges, activations, kept, float_weights=profile.float_weights))
        outputs = run(model, val, as_written=profile.runtime == "tensorrt")
        same = float(np.mean(outputs.argmax(axis=1) == reference.argmax(axis=1)))
        return Evaluated(model, Tried(method="minmax", top1=same, divergence=float(np.abs(outputs - reference).mean())))

    already = frozenset([next(node.name for node in graph.graph.node if node.op_type == "GlobalAveragePool")])
    assert judge(already).tried.top1 < 0.9
    found = back_to_float(graph, judge, already, 0.95, Silent())
    assert found is not None
    judged, kept, mixed = found
    expected = set(broken[1:] if profile.runtime == "tensorrt" else broken)
    assert expected <= {found.block for found in mixed.ranking[:4]}
    assert expected <= set(mixed.kept) <= kept
    assert already < kept
    assert mixed.top1 == judged.tried.top1 >= 0.95
    quantized = {node.name for node in judged.model.graph.node if node.op_type == "Conv"} - set(mixed.kept)
    made_by = {node.output[0]: node.op_type for node in judged.model.graph.node}
    for node in judged.model.graph.node:
        if node.op_type == "Conv":
            assert (made_by.get(node.input[1]) == "DequantizeLinear") == (node.name in quantized), node.name
    if profile.tensorrt is not None:
        check_tensorrt(judged.model, profile.tensorrt)
