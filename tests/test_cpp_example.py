"""`tlx export --with-c`: the C++ example compiles, and is bit-identical to Pillow and the Python runner."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exports import exported
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tlexport.api.verify import verify
from tlexport.bundle.manifest import LABELS, read_manifest
from tlexport.cli.main import run
from tlexport.device.inputs.decoding import BadImage
from tlexport.device.inputs.image import resize_and_crop, resized_size
from tlexport.device.runtimes.onnx_session import open_session
from tlexport.export.cpp_example import MODEL_HEADER, SOURCES, literal, model_header, write_cpp

COMPILER = next((found for name in (os.environ.get("CXX", "c++"), "g++", "clang++") if (found := shutil.which(name))), None)
NEEDS_COMPILER = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is here: set CXX, or install g++")
STRICT = ("-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Werror")
HOSTILE = (
    '"; int main() { return 1; } //',
    "back\\slash\\",
    '\\"',
    "*/ #error",
    "??/",
    "line\nline\r\t",
    'R"(raw)"',
    "%s {} $(exit)",
    "1\x00\x7f8",
    "naïve 日本語 😀",
    "",
)
# what may be done to a golden vector so that it is no longer one
BREAKAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "not an array": lambda data: b"PK\x03\x04" + data[4:],
    "cut short": lambda data: data[:-1],
    "too long": lambda data: data + b"\x00",
    "cut in its header": lambda data: data[:40],
    "another type": lambda data: data.replace(b"'|u1'", b"'|i1'", 1),
    "another order": lambda data: data.replace(b"'fortran_order': False", b"'fortran_order': True ", 1),
    "a huge shape": lambda data: data.replace(b"'shape': (8, ", b"'shape': (99999999999999999999, ", 1).replace(b" " * 19, b"", 1),
    "no shape": lambda data: data.replace(b"'shape'", b"'sharp'", 1),
}


def compile_program(source: Path, out: Path, *options: str) -> Path:
    assert COMPILER is not None
    done = subprocess.run([COMPILER, *STRICT, *options, "-o", str(out), str(source)], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return out


def answer(program: Path, *arguments: str | Path, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(program), *map(str, arguments)], input=data, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as `tlx export --with-c` writes it, of one model, which is quicker."""
    out = tmp_path_factory.mktemp("cpp") / "bundle"
    asked = ["export", str(checkpoint), "--target", "jetson-orin-nano", "--precision", "fp32", "--with-c", "-q", "--out", str(out)]
    assert run(asked) == 0
    return out


@pytest.fixture(scope="module")
def program(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its contract test."""
    return compile_program(made / "cpp/contract_test.cpp", tmp_path_factory.mktemp("program") / "contract_test", "-O1")


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


# --- what is written --------------------------------------------------------------------------------------------------------


def test_the_example_is_part_of_the_bundle(made: Path) -> None:
    expected = {f"cpp/{path.name}" for path in SOURCES.iterdir()} | {f"cpp/{MODEL_HEADER}"}
    assert {name for name in read_manifest(made).files if name.startswith("cpp/")} == expected
    assert all((made / "cpp" / path.name).read_bytes() == path.read_bytes() for path in SOURCES.iterdir())
    assert all(check.ok for check in verify(made, device="cpu"))


def test_a_changed_source_is_found(copy: Path) -> None:
    with (copy / "cpp/tlx_contract.hpp").open("a", encoding="ascii") as stream:
        stream.write("// harmless?\n")
    [failed, *_] = [check for check in verify(copy, device="cpu") if not check.ok]
    assert failed.name == "hash cpp/tlx_contract.hpp"


@NEEDS_COMPILER
def test_no_class_name_becomes_code(made: Path, tmp_path: Path) -> None:
    manifest = read_manifest(made)
    header = model_header(manifest.model_copy(update={"classes": HOSTILE}), manifest.golden)
    assert header.isascii()
    (tmp_path / MODEL_HEADER).write_text(header, encoding="ascii")
    source = tmp_path / "classes.cpp"
    source.write_text(
        f'#include <cstdio>\n#include "{MODEL_HEADER}"\nint main() {{\n'
        "for (auto name : tlx::model::classes) { std::fwrite(name.data(), 1, name.size(), stdout); std::putchar(0xff); }\n}\n"
    )
    done = answer(compile_program(source, tmp_path / "classes", "-trigraphs"))
    assert done.returncode == 0
    assert done.stdout.split(b"\xff")[:-1] == [name.encode() for name in HOSTILE]  # 0xff occurs in no UTF-8


@pytest.mark.parametrize("text", [*HOSTILE, "".join(map(chr, range(0x300)))])
def test_a_literal_is_one_line_of_plain_characters(text: str) -> None:
    found = literal(text)
    assert found.isascii() and found.isprintable() and "?" not in found
    inside = found[1:-1]
    assert '"' not in inside
    assert inside.encode().decode("unicode_escape").encode("latin-1").decode() == text  # Python reads octal as C++ does


# --- the contract -----------------------------------------------------------------------------------------------------------


@NEEDS_COMPILER
def test_the_golden_vectors_hold(program: Path, made: Path) -> None:
    done = answer(program, "golden", made)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == b"verdict: ok"
    assert answer(program, "classes").stdout.split(b"\0")[:-1] == [name.encode() for name in read_manifest(made).classes]


@NEEDS_COMPILER
def test_one_changed_pixel_is_a_wrong_resize(program: Path, copy: Path) -> None:
    path = copy / str(read_manifest(copy).golden.resized)
    squares = np.load(path)
    squares[-1, -1, -1, -1] ^= 1
    np.save(path, squares, allow_pickle=False)
    done = answer(program, "golden", copy)
    assert done.returncode == 5
    assert b"largest difference 1 of 255" in done.stdout
    assert done.stdout.splitlines()[-1] == b"verdict: wrong resize"


@NEEDS_COMPILER
def test_another_bundle_is_a_wrong_file(program: Path, copy: Path) -> None:
    lines = (copy / LABELS).read_text(encoding="utf-8").splitlines(keepends=True)
    (copy / LABELS).write_text("".join(reversed(lines)), encoding="utf-8")
    done = answer(program, "golden", copy)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (5, b"verdict: wrong file")


@NEEDS_COMPILER
@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_golden_vector_is_refused(program: Path, copy: Path, breakage: str) -> None:
    path = copy / str(read_manifest(copy).golden.resized)
    before = path.read_bytes()
    path.write_bytes(BREAKAGES[breakage](before))
    assert path.read_bytes() != before
    done = answer(program, "golden", copy)
    assert done.returncode == 1
    assert path.name in done.stderr.decode() and ".npy array" in done.stderr.decode()


def check_resize(program: Path, width: int, height: int, contract: tuple[int, int, str], seed: int) -> None:
    """Pixels in, pixels out: those of numpy and of Pillow."""
    size, resize, interpolation = contract
    random = np.random.default_rng(seed)
    # noise reaches the clamps of bicubic, flat colours show a sum of coefficients that is not 1
    pixels = random.integers(0, 256, (height, width, 3)) if seed % 4 else np.full((height, width, 3), random.integers(0, 256, 3))
    pixels = pixels.astype(np.uint8)
    done = answer(program, "resize", *map(str, (width, height, size, resize, interpolation)), data=pixels.tobytes())
    try:
        expected = resize_and_crop(pixels, resize, size, interpolation)
    except BadImage:
        assert done.returncode == 2 and b"too narrow" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    found = np.frombuffer(done.stdout, np.uint8).reshape(size, size, 3)
    assert np.array_equal(found, expected)
    if np.prod(resized_size(width, height, resize)) < 1_000_000:  # Pillow processes the whole image, not only the square
        assert np.array_equal(found, resize_and_crop(Image.fromarray(pixels), resize, size, interpolation))


SIDES = st.one_of(st.integers(1, 9), st.integers(1, 700))
CONTRACTS = st.tuples(st.integers(1, 96), st.integers(0, 40), st.sampled_from(["bilinear", "bicubic"])).map(
    lambda given: (given[0], given[0] + given[1], given[2])
)


@NEEDS_COMPILER
@settings(max_examples=200)
@given(SIDES, SIDES, CONTRACTS, st.integers(0, 1000))
@example(1, 1, (64, 64, "bilinear"), 1)
@example(1, 1, (1, 1, "bicubic"), 1)
@example(1, 700, (33, 40, "bicubic"), 1)
@example(65535, 1, (8, 2048, "bilinear"), 1)  # too narrow
@example(64, 64, (64, 64, "bicubic"), 1)  # already right
@example(64, 201, (63, 64, "bicubic"), 1)  # one direction only, and a half in the corner
@example(1919, 1081, (224, 256, "bicubic"), 1)
@example(1919, 1081, (224, 256, "bilinear"), 1)
def test_random_images_are_resized_to_the_bit(program: Path, width: int, height: int, contract: tuple[int, int, str], seed: int) -> None:
    check_resize(program, width, height, contract, seed)


@NEEDS_COMPILER
def test_the_bundle_s_own_contract_is_the_default(program: Path, made: Path) -> None:
    contract = read_manifest(made).preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3)).astype(np.uint8)
    done = answer(program, "resize", "130", "90", data=pixels.tobytes())
    assert done.stdout == resize_and_crop(pixels, contract.resize, contract.size, contract.interpolation).tobytes()


@NEEDS_COMPILER
@pytest.mark.parametrize(
    "words", [[], ["golden"], ["resize", "2"], ["resize", "0", "2"], ["resize", "2", "x"], ["resize", "2", "2"], ["predict"]]
)
def test_wrong_usage_is_refused(program: Path, words: list[str]) -> None:
    done = answer(program, *words, data=b"\0" * 11)  # 2 x 2 pixels take 12
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("options", [("-O0",), ("-O3", "-march=native", "-ffp-contract=fast"), ("-O2", "-fsanitize=address,undefined")])
def test_options_of_the_compiler_change_no_bit(made: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Fused products among them, which round once where the contract rounds twice."""
    program = compile_program(made / "cpp/contract_test.cpp", tmp_path / "contract_test", *options)
    assert answer(program, "golden", made).returncode == 0
    random = np.random.default_rng(1)
    for seed in range(300):
        width, height = (int(side) for side in random.integers(1, 500, 2))
        size = int(random.integers(1, 100))
        contract = (size, size + int(random.integers(0, 30)), ("bilinear", "bicubic")[seed % 2])
        check_resize(program, width, height, contract, seed)


# --- the runtimes -----------------------------------------------------------------------------------------------------------


def header_folder(name: str, *variables: str) -> Path:
    """Folder of a vendor's header; skips the test if there is none."""
    homes = [Path(home) / "include" for variable in variables if (home := os.environ.get(variable))]
    system = [Path(prefix) / "include" for prefix in ("/usr", "/usr/local", "/usr/local/cuda")]
    nvidia = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/include"))
    machine = [Path("/usr/include") / f"{os.uname().machine}-linux-gnu"] if os.name == "posix" else []
    for folder in [*homes, *system, *machine, *nvidia]:
        for inner in ("", "onnxruntime", "onnxruntime/core/session"):
            if (folder / inner / name).is_file():
                return folder / inner
    pytest.skip(f"{name} is not here: set {' or '.join(variables)} to the folder whose include/ has it")


def onnxruntime_library(folder: Path) -> Path:
    """ONNX Runtime's library under the name that a linker expects: from ORT_HOME, else from the Python package."""
    import onnxruntime

    homes = [Path(home) / "lib" for home in [os.environ.get("ORT_HOME")] if home]
    for place in [*homes, Path(onnxruntime.__file__).parent / "capi"]:
        for library in sorted(place.glob("libonnxruntime.so*")):
            for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # the second is its soname
                (folder / name).symlink_to(library.resolve())
            return folder / "libonnxruntime.so"
    pytest.skip("libonnxruntime.so is neither in ORT_HOME/lib nor in the Python package onnxruntime")


def cmake_build(made: Path, build: Path, *options: str) -> str:
    """CMake's output; the programs are in ``build``."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not here")
    said = ""
    for command in ([cmake, "-S", str(made / "cpp"), "-B", str(build), *options], [cmake, "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        said += done.stdout
    return said


@NEEDS_COMPILER
@pytest.mark.slow
def test_cmake_builds_what_it_finds_and_says_so(made: Path, tmp_path: Path) -> None:
    nowhere = ["-DCMAKE_FIND_ROOT_PATH=/nowhere", *(f"-DCMAKE_FIND_ROOT_PATH_MODE_{kind}=ONLY" for kind in ("INCLUDE", "LIBRARY"))]
    said = cmake_build(made, tmp_path / "build", *nowhere)
    assert "onnxruntime_example is left out" in said and "tensorrt_example is left out" in said
    assert answer(tmp_path / "build/contract_test", "golden", made).returncode == 0
    assert all(check.ok for check in verify(made, device="cpu"))  # built outside of the bundle, nothing is strange in it


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the libraries of Linux")
@pytest.mark.parametrize("target", ["cpu-x86", "jetson-orin-nano"])
def test_onnx_runtime_answers_as_in_python(target: str, bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    headers = header_folder("onnxruntime_c_api.h", "ORT_HOME")
    library = onnxruntime_library(tmp_path)
    source = bundle if read_manifest(bundle).target == target else exported(checkpoint, target).path
    out = Path(shutil.copytree(source, tmp_path / "bundle"))
    write_cpp(out, read_manifest(out), read_manifest(out).golden)
    said = cmake_build(out, tmp_path / "build", f"-DORT_INCLUDE={headers}", f"-DORT_LIBRARY={library}")
    assert "onnxruntime_example is built" in said
    program, manifest = tmp_path / "build/onnxruntime_example", read_manifest(out)
    pixels = np.random.default_rng(2).integers(0, 256, (75, 100, 3)).astype(np.uint8)
    contract = manifest.preprocess
    square = resize_and_crop(pixels, contract.resize, contract.size, contract.interpolation)[None]
    for model in manifest.models:
        precision = model.artifact.precision
        done = answer(program, out, precision)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"golden {precision}: {len(manifest.golden.images)} images".encode() in done.stdout
        simulate = manifest.profile.runtime == "tensorrt" and precision == "int8"
        with open_session(out / model.file, "cpu", None, 1, simulate) as session:
            [expected] = session.run(square.astype(model.artifact.inputs[0].dtype))
        name, probability = answer(program, out, precision, "100", "75", data=pixels.tobytes()).stdout.decode().rsplit(" ", 1)
        assert name == manifest.classes[int(expected.argmax())]
        assert float(probability) == pytest.approx(float(expected.max()), abs=1e-4)
    outputs = np.load(out / manifest.model("fp32").golden_outputs)
    np.save(out / manifest.model("fp32").golden_outputs, np.roll(outputs, 1, axis=1), allow_pickle=False)
    done = answer(program, out, "fp32")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (5, b"verdict: wrong runtime")


@NEEDS_COMPILER
@pytest.mark.slow
def test_the_example_for_tensorrt_fits_its_headers(made: Path, tmp_path: Path) -> None:
    """Engines are built on boards; here it is compiled as far as an object file."""
    headers = header_folder("NvInfer.h", "TENSORRT_HOME")
    cuda = header_folder("cuda_runtime_api.h", "CUDA_HOME")
    compile_program(made / "cpp/tensorrt_example.cpp", tmp_path / "example.o", "-c", "-isystem", str(headers), "-isystem", str(cuda))
