"""A bundle's runner as on a device: copied with the bundle, started with ``run.py``, without tlexport."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trtexec_files
from commands import Ended
from exports import exported
from PIL import Image

from tlexport.api.predict import predict
from tlexport.api.verify import verify
from tlexport.bundle.manifest import MANIFEST, read_manifest
from tlexport.device import cli, golden
from tlexport.device.board.environment import default_threads
from tlexport.device.errors import InvalidFile, MissingDependency, Unsupported, VerificationFailed
from tlexport.device.model import Model
from tlexport.device.runtimes import cuda
from tlexport.loading.model import Execution
from tlexport.measurement import Measurement
from tlexport.storage.files import sha256_of

QUICK = ("--runs", "3", "--seconds", "0", "--threads", "1")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that may be changed."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture
def ask(bundle: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The runner's command line in this process, which saves the imports."""

    def run(*arguments: str | Path, folder: Path = bundle) -> Ended:
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments], folder)
        return Ended(code, *capfd.readouterr())

    return run


def run_py(bundle: Path, *arguments: str | Path, python: Path | str = sys.executable, **options: Any) -> Ended:
    """``python run.py`` in a process of its own, without our search path, in another directory."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), str(bundle / "run.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=bundle.parent, env=clean, capture_output=True, check=False, **options)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def fix_hashes(bundle: Path) -> None:
    """So that only the golden vectors can tell."""
    data = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    data["files"] = {name: sha256_of(bundle / name) for name in data["files"]}
    (bundle / MANIFEST).write_text(json.dumps(data), encoding="utf-8")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has changed: {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


# --- a process of its own ---------------------------------------------------------------------------------------------


def test_the_bundle_proves_itself_without_tlexport(copy: Path) -> None:
    done = run_py(copy, "verify", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["ok"], found["verdict"]) == (True, "ok")
    assert [check["name"] for check in found["checks"]] == [check.name for check in verify(copy, device="cpu")]
    assert "runs on onnxruntime, cpu" in done.err
    assert run_py(copy, "verify", "--json").code == 0  # and no files beside the runner


def test_an_image_on_standard_input(copy: Path) -> None:
    image = copy / "golden/03.png"
    done = run_py(copy, "predict", "-", "--json", input=image.read_bytes())
    [by_bytes] = json.loads(done.out)
    [by_path] = predict(copy, [image], run=Execution(device="cpu"))
    assert by_bytes == by_path.to_json() | {"path": "-"}


SPY = """
import builtins, json, sys
real, seen = builtins.__import__, set()
def spy(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and str((globals or {}).get("__name__")).split(".")[0] == "tlx":
        seen.add(name.split(".")[0])
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = spy
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from tlx.cli import main
code = main(sys.argv[2:])
print(json.dumps([code, sorted(seen - set(sys.stdlib_module_names)), [name for name in sys.modules if name.startswith("tlexport")]]))
"""


@pytest.mark.parametrize("command", ["info", "verify", "predict", "bench"])
def test_it_imports_only_numpy_pillow_and_the_runtime(copy: Path, command: str) -> None:
    more = {"predict": [str(copy / "golden/00.png")], "bench": list(QUICK)}.get(command, [])
    call = [sys.executable, "-I", "-c", SPY, str(copy), command, *more]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    code, seen, ours = json.loads(done.stdout.splitlines()[-1])
    assert (code, ours) == (0, [])
    assert set(seen) <= {"numpy", "PIL", "onnxruntime", "tensorrt"}
    assert "onnxruntime" in seen


def test_without_a_decoder_raw_pixels_are_enough(copy: Path) -> None:
    code = "import sys; sys.modules['PIL'] = sys.modules['cv2'] = None; from tlx.cli import main; sys.exit(main(sys.argv[1:]))"

    def run(*arguments: str) -> Ended:
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=copy, capture_output=True, check=False)
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    found = json.loads(run("verify", "--json").out)
    details = {check["name"]: check["detail"] for check in found["checks"]}
    assert found["verdict"] == "ok"
    assert "not checked" in details["decode"]
    assert "largest difference 0" in details["resize"]
    done = run("predict", "golden/00.png")
    assert (done.code, done.out) == (MissingDependency.exit_code, "")
    assert "--raw" in done.err
    pixels = np.load(copy / "golden/00.decoded.npy")
    (copy / "pixels").write_bytes(pixels.tobytes())
    [raw] = json.loads(run("predict", "pixels", "--raw", f"{pixels.shape[1]}x{pixels.shape[0]}", "--json").out)
    [expected] = predict(copy, [copy / "golden/00.png"], run=Execution(device="cpu"))
    assert raw == expected.to_json() | {"path": "pixels"}


def test_three_lines_of_python(copy: Path) -> None:
    code = "from tlx import Model; model = Model('.'); print(model.predict('golden/00.png')[0]['class'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=True)
    [expected] = predict(copy, [copy / "golden/00.png"], run=Execution(device="cpu"))
    assert done.stdout.strip() == expected.name


def test_each_model_is_measured_in_a_process_of_its_own(copy: Path) -> None:
    done = run_py(copy, "bench", "--precision", "all", *QUICK, "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    measured = [Measurement.model_validate({key: value for key, value in row.items() if key in Measurement.model_fields}) for row in rows]
    manifest = read_manifest(copy)
    assert [m.artifact_sha256 for m in measured] == [model.artifact.sha256 for model in manifest.models]
    assert all((m.provider, m.threads, m.batch) == ("CPUExecutionProvider", 1, 1) and len(m.latencies_ns) >= 3 for m in measured)
    for row, m in zip(rows, measured, strict=True):
        figures = m.latency()
        assert row["latency_ms"] == {key: figures[key] for key in row["latency_ms"]}
        assert row["throughput_per_s"] == pytest.approx(m.throughput_per_s, rel=1e-3)


# --- other Pythons ----------------------------------------------------------------------------------------------------


def other_pythons() -> list[Path]:
    """Of JetPack 4 and 5, where pyenv has them."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return [path for version in ("3.6", "3.8") for path in sorted(root.glob(f"versions/{version}.*/bin/python"))[-1:]]


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["3.6", "3.8"])
def test_under_the_pythons_of_the_older_jetpacks(checkpoint: Path, tmp_path: Path, wanted: str) -> None:
    """With the newest numpy, onnxruntime and Pillow that each can have; the bundle is one whose opset the oldest reads."""
    python = next((path for path in other_pythons() if f"/{wanted}." in str(path)), None)
    if python is None:
        pytest.skip(f"pyenv has no Python {wanted} here")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    inside = tmp_path / "venv/bin/python"
    # the pip that comes with 3.6 does not know the wheels' newer names
    for packages in (["pip==21.3.1"], ["numpy", "onnxruntime", "Pillow"]):
        done = subprocess.run([inside, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"the package index does not give {' '.join(packages)}: {done.stderr.strip().splitlines()[-1:]}")
    bundle = Path(shutil.copytree(exported(checkpoint, "jetson-nano").path, tmp_path / "bundle"))
    here = ("--runtime", "onnxruntime")
    found = json.loads(run_py(bundle, "verify", "--json", *here, python=inside).out)
    assert (found["verdict"], [check for check in found["checks"] if not check["ok"]]) == ("ok", [])
    done = run_py(bundle, "predict", bundle / "golden", "--json", *here, python=inside)
    names = [Path(row["path"]) for row in json.loads(done.out)]
    assert [row["class"] for row in json.loads(done.out)] == [row.name for row in predict(bundle, names, run=Execution(device="cpu"))]
    assert run_py(bundle, "bench", "--check-only", "--precision", "all", *here, python=inside).code == 0
    code = f"import sys; sys.path.insert(0, {str(bundle)!r}); from tlx import Model; Model({str(bundle)!r}, runtime='onnxruntime')"
    subprocess.run([inside, "-c", code], check=True)


# --- what is wrong, and how it is called ------------------------------------------------------------------------------


def other_byte(bundle: Path) -> None:
    data = bytearray((bundle / "golden/00.png").read_bytes())
    data[-1] ^= 1
    (bundle / "golden/00.png").write_bytes(data)


def other_pixel(bundle: Path) -> None:
    with Image.open(bundle / "golden/02.png") as image:
        image.putpixel((3, 3), (255 - image.getpixel((3, 3))) if image.mode == "L" else 9)
        image.save(bundle / "golden/02.png")
    fix_hashes(bundle)


def other_decoder(bundle: Path) -> None:
    """One that loses a little, as another libjpeg would."""
    replace(
        bundle / "tlx/inputs/decode_pillow.py",
        "image = _to_rgb(image, background)",
        "image = _to_rgb(image, background).point(lambda v: v | 1)",
    )
    fix_hashes(bundle)


def other_filter(bundle: Path) -> None:
    replace(bundle / "tlx/inputs/resize.py", "np.where(t < 1.0, 1.0 - t, 0.0)", "np.where(t < 1.0, 1.0 - t * t, 0.0)")
    fix_hashes(bundle)


def no_antialiasing(bundle: Path) -> None:
    replace(bundle / "tlx/inputs/resize.py", "stretch = max(scale, 1.0)", "stretch = 0.9")
    fix_hashes(bundle)


def swapped_outputs(bundle: Path) -> None:
    path = bundle / "golden/outputs.int8.npy"
    np.save(path, np.load(path)[:, ::-1])
    fix_hashes(bundle)


@pytest.mark.parametrize(
    ("sabotage", "verdict"),
    [
        (other_byte, "wrong file"),
        (other_pixel, "wrong decoder"),
        (other_decoder, "wrong decoder"),
        (other_filter, "wrong resize"),
        (no_antialiasing, "wrong resize"),
        (swapped_outputs, "wrong runtime"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_sabotage_has_its_own_name(copy: Path, sabotage: Callable[[Path], None], verdict: str) -> None:
    sabotage(copy)
    done = run_py(copy, "verify", "--json")
    assert done.code == VerificationFailed.exit_code
    found = json.loads(done.out)
    assert (found["ok"], found["verdict"]) == (False, verdict)
    assert verdict in done.err
    assert "hint:" in done.err


def test_a_bundle_without_corners_is_still_checked(copy: Path, ask: Callable[..., Ended]) -> None:
    data = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    for key in ("decoded", "resized"):
        del data["golden"][key]
    (copy / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    assert json.loads(ask("verify", "--json", folder=copy).out)["verdict"] == "ok"
    other_pixel(copy)
    assert json.loads(ask("verify", "--json", folder=copy).out)["verdict"] == "wrong decoder or resize"
    assert all(check.ok for check in verify(copy, device="cpu")) is False


def test_corners_of_golden_images_are_small() -> None:
    pixels = np.zeros((golden.REGION + 9, 5000, 3), np.uint8)
    assert golden.region(pixels).shape == (golden.REGION, golden.REGION, 3)
    assert golden.region(Image.fromarray(pixels[:7])).shape == (7, golden.REGION, 3)


def test_one_command_does_all_that_a_new_device_is_asked(copy: Path) -> None:
    done = run_py(copy, "setup", *QUICK, "--json")
    found = json.loads(done.out)
    assert (done.code, found["build"], found["verify"]["ok"]) == (0, None, True)
    assert [row["latency_ms"]["n"] > 0 for row in found["bench"]] == [True]


@pytest.mark.parametrize("command", ["predict golden/00.png", "bench --check-only", "bench"])
def test_a_model_that_was_changed_is_not_loaded(
    copy: Path, ask: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(copy)
    model = copy / read_manifest(copy).model().file
    model.write_bytes(model.read_bytes() + b"\0")
    done = ask(*command.replace("golden", str(copy / "golden")).split(), folder=copy)
    assert done.code == VerificationFailed.exit_code
    assert model.name in done.err


# --- the command line -------------------------------------------------------------------------------------------------


def test_folders_files_and_raw_pixels_give_the_same(bundle: Path, ask: Callable[..., Ended], tmp_path: Path) -> None:
    names = sorted((bundle / "golden").glob("*.png"))
    expected = [row.to_json() for row in predict(bundle, names, run=Execution(device="cpu"))]
    assert json.loads(ask("predict", bundle / "golden", "--json").out) == expected
    by_threes = json.loads(ask("predict", "--batch", "3", "--json", *names).out)
    assert [(row["path"], row["class"]) for row in by_threes] == [(row["path"], row["class"]) for row in expected]
    with Image.open(names[0]) as image:
        rgb = image.convert("RGB")
    (tmp_path / "pixels").write_bytes(rgb.tobytes())
    [raw] = json.loads(ask("predict", tmp_path / "pixels", "--raw", f"{rgb.width}x{rgb.height}", "--json").out)
    assert raw == expected[0] | {"path": str(tmp_path / "pixels")}
    text = ask("predict", names[1])
    assert text.out.split()[:2] == [str(names[1]), expected[1]["class"]]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("", 2, "commands: info"),
        ("predikt x.png", 2, "did you mean 'predict'"),
        ("predict", 2, "no image was named"),
        ("predict x.png --jsom", 2, "did you mean '--json'"),
        ("predict x.png --precision int9", 2, "did you mean 'int8'"),
        ("predict x.png --threads 0", 2, "'0'"),
        ("predict x.png --raw 640", 2, "640x480"),
        ("predict missing.png", 2, "missing.png"),
        ("predict - x.png", 2, "standard input"),
        ("info --runtime onnx", 0, ""),
        ("verify --runtime onnx", 2, "runtimes: auto"),
        ("verify extra", 2, "takes no 'extra'"),
        ("verify --device gpu", 2, "devices: cpu"),
        ("verify --bundle nowhere", 2, "not a bundle"),
        ("verify --device cuda:77", 4, "--device cpu"),
        ("bench --device cuda:77", 4, "cuda:77"),
        ("bench --no-copies", 4, "host memory to host memory"),
        ("bench --runtime tensorrt --device cpu", 4, "TensorRT"),
        ("build", 4, "nothing to build"),
    ],
)
def test_what_cannot_be_is_said_with_its_exit_code(ask: Callable[..., Ended], arguments: str, code: int, said: str) -> None:
    done = ask(*arguments.split())
    assert done.code == code
    assert said in done.err
    assert bool(done.out) == (code == 0)  # an error leaves nothing on standard output
    assert code == 0 or "hint:" in done.err


def test_help_names_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in cli.COMMANDS)
    assert text.count("python3 run.py") > len(cli.COMMANDS)


def test_info_says_what_would_run_and_why(ask: Callable[..., Ended], bundle: Path) -> None:
    found = json.loads(ask("info", "--json").out)
    manifest = read_manifest(bundle)
    assert found["would_run"]["runtime"] == "onnxruntime"
    assert manifest.target in found["would_run"]["reason"]
    assert [model["precision"] for model in found["models"] if model["chosen"]] == [manifest.model().artifact.precision]
    assert found["here"]["decoder"] == "Pillow"
    text = ask("info").out
    assert manifest.target in text
    assert "would run onnxruntime on cpu" in text


def test_a_bundle_for_tensorrt_is_not_silently_run_by_another(checkpoint: Path, ask: Callable[..., Ended]) -> None:
    made = exported(checkpoint, "jetson-orin-nano").path
    for command in (["verify"], ["predict", str(made / "golden/00.png")], ["bench"], ["build"]):
        done = ask(*command, folder=made)
        assert done.code == Unsupported.exit_code
        assert "trtexec" in done.err
        assert "--runtime onnxruntime" in done.err
    found = json.loads(ask("info", "--json", folder=made).out)
    assert found["would_run"] is None
    done = ask("verify", "--json", "--runtime", "onnxruntime", folder=made)
    assert json.loads(done.out)["verdict"] == "ok"
    assert "times measured here do not apply" in done.err


class Gpu:
    """libcudart's description of a GPU, for a machine without one."""

    def device_name(self, index: int) -> str:
        return f"Orin {index}"

    def compute_capability(self, index: int) -> str:
        return "8.7"

    def driver_version(self) -> str:
        return "12.6"


def test_an_engine_is_built_once_and_again_where_it_no_longer_fits(
    checkpoint: Path, tmp_path: Path, ask: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for trtexec and a GPU's description; everything between them is the real runner."""
    made = Path(shutil.copytree(exported(checkpoint, "jetson-orin-nano").path, tmp_path / "bundle"))
    monkeypatch.setattr(cuda, "open_cuda", Gpu)
    monkeypatch.setenv("TRTEXEC", str(trtexec_files.program(tmp_path / "old", (10, 3, 0))))
    first, second = (json.loads(ask("build", "--json", folder=made).out) for _ in range(2))
    assert (first["built"], second["built"]) == (True, False)
    assert Path(first["engine"]).is_file()
    assert json.loads(ask("info", "--json", folder=made).out)["would_run"]["runtime"] == "trtexec"
    [row] = json.loads(ask("bench", *QUICK, "--json", folder=made).out)
    measured = Measurement.model_validate({key: value for key, value in row.items() if key in Measurement.model_fields})
    assert (measured.runtime, measured.environment.accelerator) == ("trtexec", "Orin 0")
    assert measured.size_bytes == Path(first["engine"]).stat().st_size
    assert "copies to and from the GPU counted" in str(measured.mode)
    [without] = json.loads(ask("bench", *QUICK, "--no-copies", "--json", folder=made).out)
    assert "copies to and from the GPU not counted" in without["mode"]
    monkeypatch.setenv("TRTEXEC", str(trtexec_files.program(tmp_path / "new", (10, 7, 0))))
    third = ask("setup", *QUICK, "--json", folder=made)  # builds, verifies, and does not measure what is wrong
    found = json.loads(third.out)
    assert found["build"]["built"]
    assert "10.3.0" in found["build"]["reason"]
    assert (third.code, found["verify"]["verdict"], found["bench"]) == (VerificationFailed.exit_code, "wrong runtime", None)
    done = ask("verify", "--json", folder=made)  # the stand-in's outputs differ from the network's
    assert (done.code, json.loads(done.out)["verdict"]) == (VerificationFailed.exit_code, "wrong runtime")
    assert ask("bench", "--batch", "2", folder=made).code == Unsupported.exit_code


# --- as a module ------------------------------------------------------------------------------------------------------


def test_arrays_paths_and_prepared_pixels(bundle: Path) -> None:
    path = bundle / "golden/01.png"
    inputs = np.load(bundle / "golden/inputs.npy")
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"))
    with Model(bundle, threads=1) as model:
        expected = model.predict(str(path))
        assert model.predict(rgb) == [expected[0] | {"path": None}]
        assert model.predict([path, rgb])[1]["probabilities"] == expected[0]["probabilities"]
        assert model.predict(inputs)[1]["probabilities"] == expected[0]["probabilities"]
        assert model.predict_raw(rgb.tobytes(), rgb.shape[1], rgb.shape[0]) == model.predict(rgb)
        assert model.predict([]) == []
        outputs = np.load(bundle / model.record["golden_outputs"])
        np.testing.assert_allclose(model.probabilities(inputs), outputs, atol=model.record["tolerance"])
        for bad in (rgb.astype(np.float32), rgb[..., 0], inputs[:, :3], bundle / "labels.txt", bundle / "none.png"):
            with pytest.raises(InvalidFile):
                model.predict(bad)
        with pytest.raises(InvalidFile, match="bytes"):
            model.predict_raw(b"123", 640, 480)
    with Model(bundle, batch=3, threads=1) as several:
        np.testing.assert_allclose(several.probabilities(inputs), outputs, atol=several.record["tolerance"])


def test_threads_of_the_device_are_those_of_the_product() -> None:
    from tlexport.bench import environment

    assert default_threads() == environment.default_threads()


@pytest.mark.parametrize("key", ["classes", "profile", "models", "files", "golden"])
def test_a_manifest_without_a_key_is_refused_with_its_name(copy: Path, key: str) -> None:
    data = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    del data[key]
    (copy / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InvalidFile, match=f"{key}.* is missing"):
        Model(copy)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format": 99}', b'{"format": 1, "models": 3}'])
def test_a_manifest_that_is_none_is_refused(copy: Path, content: bytes) -> None:
    (copy / MANIFEST).write_bytes(content)
    with pytest.raises(InvalidFile, match=MANIFEST):
        Model(copy)


@pytest.mark.parametrize("name", ["../model.fp32.onnx", "/etc/passwd", "a\\b", "C:x", "", "./labels.txt"])
def test_names_that_lead_out_of_the_bundle_are_not_followed(copy: Path, name: str) -> None:
    data = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    for model in data["models"]:
        model["file"], model["artifact"]["sha256"] = name, "0" * 64
    data["files"][name] = "0" * 64
    (copy / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(VerificationFailed):
        Model(copy)
