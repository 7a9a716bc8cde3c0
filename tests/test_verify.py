"""The verb ``verify``: an unmodified bundle passes, and every change is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import fix_hashes
from exports import exported, tree
from onnx import numpy_helper
from PIL import Image

from tlexport import device
from tlexport.api.verify import verify
from tlexport.bundle.manifest import LABELS, MANIFEST, MODEL_CARD
from tlexport.device.golden import Check
from tlexport.errors import TlxError, Unsupported

# the kinds of files in a bundle for ONNX Runtime; compared with a real one below
FILES = ["model.fp32.onnx", "model.fp16.onnx", "model.int8.onnx", LABELS, MODEL_CARD, "golden/inputs.npy"]
FILES += [f"golden/outputs.{precision}.npy" for precision in ("fp32", "fp16", "int8")]
FILES += [f"golden/{number:02}.png" for number in range(8)]
FILES += ["golden/resized.npy", *(f"golden/{number:02}.decoded.npy" for number in range(8))]
PACKAGE = Path(device.__file__).parent
RUNNER = ["run.py", *(f"tlx/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py") if path != PACKAGE / "run.py")]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def failed(bundle: Path) -> list[Check]:
    return [check for check in verify(bundle, device="cpu") if not check.ok]


# --- verify -----------------------------------------------------------------------------------------------------------


def test_an_untouched_bundle_passes(bundle: Path) -> None:
    before = tree(bundle)
    checks = verify(bundle, device="cpu")
    assert not failed(bundle)
    names = [check.name for check in checks]
    assert {f"hash {name}" for name in FILES} <= set(names)
    assert {"no other files", "labels", "decode and resize", "golden fp32", "golden fp16", "golden int8"} <= set(names)
    assert len(set(names)) == len(names)
    assert tree(bundle) == before
    assert set(before) == {*FILES, *RUNNER, MANIFEST}


def test_a_bundle_for_another_board_passes_here(checkpoint: Path) -> None:
    """Q/DQ pairs of a TensorRT INT8 graph are computed as written."""
    made = exported(checkpoint, "jetson-orin-nano")
    checks = verify(made.path, device="cpu")
    assert all(check.ok for check in checks)
    assert "golden int8" in [check.name for check in checks]


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_found_by_name(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    found = failed(copy)
    assert found[0].name == f"hash {name}"
    assert "expected" in found[0].detail
    assert {check.name for check in found[1:]} <= {"labels"}  # and nothing is run that may have been tampered with
    assert not [check for check in verify(copy) if check.name.startswith("golden")]


@pytest.mark.parametrize("name", ["model.int8.onnx", LABELS, "golden/03.png"])
def test_a_missing_file_is_found_by_name(copy: Path, name: str) -> None:
    (copy / name).unlink()
    [check, *_] = failed(copy)
    assert (check.name, check.detail) == (f"hash {name}", "the file is missing")


@pytest.mark.parametrize("name", ["model.int4.onnx", "golden/08.png", ".hidden", "runner.py"])
def test_a_file_too_many_is_found_by_name(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"what is this?")
    [check] = failed(copy)
    assert check.name == "no other files"
    assert name in check.detail


@pytest.mark.parametrize("target", ["outside", "nowhere", "itself"])
def test_a_link_instead_of_a_file_is_found(copy: Path, tmp_path: Path, target: str) -> None:
    model = copy / "model.fp32.onnx"
    if target == "outside":
        shutil.move(model, tmp_path / "outside")  # the very bytes, but not in the bundle
    else:
        model.unlink()
    model.symlink_to({"outside": tmp_path / "outside", "nowhere": "nowhere", "itself": model.name}[target])
    [check] = failed(copy)
    assert check.name == "hash model.fp32.onnx"
    assert "link" in check.detail


def test_a_folder_that_is_a_link_is_found(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "golden", tmp_path / "golden")
    (copy / "golden").symlink_to(tmp_path / "golden")
    assert "hash golden/inputs.npy" in [check.name for check in failed(copy)]


# --- verify, when the hashes fit --------------------------------------------------------------------------------------


def test_labels_in_another_order_are_found(copy: Path) -> None:
    labels = (copy / LABELS).read_text(encoding="utf-8").splitlines()
    (copy / LABELS).write_text("\n".join([labels[1], labels[0], *labels[2:]]) + "\n", encoding="utf-8")
    fix_hashes(copy)
    assert [check.name for check in failed(copy)] == ["labels"]


def other_pixels(folder: Path) -> None:
    inputs = np.load(folder / "golden/inputs.npy")
    inputs[3, 5, 5] ^= 1
    np.save(folder / "golden/inputs.npy", inputs)


def other_image(folder: Path) -> None:
    with Image.open(folder / "golden/02.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "golden/02.png")


def no_image(folder: Path) -> None:
    (folder / "golden/02.png").write_bytes(b"\x89PNG\r\n\x1a\nbut no more")


def fewer_tensors(folder: Path) -> None:
    np.save(folder / "golden/inputs.npy", np.load(folder / "golden/inputs.npy")[:5])


def other_size(folder: Path) -> None:
    np.save(folder / "golden/inputs.npy", np.load(folder / "golden/inputs.npy")[:, :32])


def no_array(folder: Path) -> None:
    (folder / "golden/inputs.npy").write_bytes(b"not an array")


def pickled(folder: Path) -> None:
    np.save(folder / "golden/inputs.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def text(folder: Path) -> None:
    np.save(folder / "golden/inputs.npy", np.array(["a"] * 8))


@pytest.mark.parametrize("change", [other_pixels, other_image, no_image, fewer_tensors, other_size, no_array, pickled, text])
def test_golden_images_and_tensors_that_do_not_belong_together_are_found(copy: Path, change: Callable[[Path], None]) -> None:
    change(copy)
    fix_hashes(copy)
    found = failed(copy)
    assert "decode and resize" in [check.name for check in found]
    assert all(check.detail for check in found)


def replace_model(copy: Path, precision: str, change: Callable[[onnx.ModelProto], None]) -> None:
    path = copy / f"model.{precision}.onnx"
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    fix_hashes(copy)


def other_weights(model: onnx.ModelProto) -> None:
    """The classifier forgets: its last weight is shuffled."""
    [gemm] = [node for node in model.graph.node if node.op_type == "Gemm"][-1:]
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == gemm.input[1]]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_weights_are_found(copy: Path, precision: str) -> None:
    replace_model(copy, precision, other_weights)
    [check] = failed(copy)
    assert check.name == f"golden {precision}"
    assert "largest difference" in check.detail


def test_other_int8_weights_are_found(copy: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4:
                tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))

    replace_model(copy, "int8", change)
    assert [check.name for check in failed(copy)] == ["golden int8"]


def test_other_answers_are_found(copy: Path) -> None:
    path = copy / "golden/outputs.int8.npy"
    np.save(path, np.load(path)[::-1])
    fix_hashes(copy)
    assert [check.name for check in failed(copy)] == ["golden int8"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_no_numbers_never_agree(copy: Path, value: float) -> None:
    path = copy / "golden/outputs.fp32.npy"
    np.save(path, np.full_like(np.load(path), value))
    fix_hashes(copy)
    assert [check.name for check in failed(copy)] == ["golden fp32"]


def test_other_tensors_are_found(copy: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.output[0].name = "scores"
        for node in model.graph.node:
            node.output[:] = ["scores" if name == "probabilities" else name for name in node.output]

    replace_model(copy, "fp32", change)
    [check] = failed(copy)
    assert check.name == "golden fp32"
    assert "scores" in check.detail


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07"])
def test_a_model_that_is_none_is_found(copy: Path, content: bytes) -> None:
    (copy / "model.fp16.onnx").write_bytes(content)
    fix_hashes(copy)
    assert [check.name for check in failed(copy)] == ["golden fp16"]


def test_weights_outside_the_model_are_not_followed(copy: Path) -> None:
    path = copy / "model.fp32.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="labels.txt.bin", size_threshold=0)
    (copy / "labels.txt.bin").rename(copy.parent / "labels.txt.bin")
    fix_hashes(copy)
    [check] = failed(copy)
    assert check.name == "golden fp32"
    assert "other files" in check.detail


def test_a_device_that_is_not_here_is_an_error_and_no_failed_check(bundle: Path) -> None:
    with pytest.raises(TlxError) as error:
        verify(bundle, device="cuda:63")
    assert isinstance(error.value, Unsupported)
