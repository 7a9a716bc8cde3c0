"""The shipped profiles, errors in a profile, the search path, and the target ``jetson``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlexport import plugins
from tlexport.errors import InvalidFile, UsageError
from tlexport.hardware.machine import this_machine
from tlexport.hardware.profile import Budget, Fact, Hardware, Int8, Match, Profile, Software
from tlexport.hardware.schema import as_written
from tlexport.hardware.target import load_file, load_profile, profile_names, profile_path, resolve
from tlexport.record import Record

SHIPPED = Path(__file__).parent.parent / "profiles"
DOCUMENT = SHIPPED.parent / "docs/profiles.md"
NAMES = sorted(path.stem for path in SHIPPED.glob("*.toml"))
TARGETS = [name + mode for name in NAMES for mode in ("", *(f":{mode}" for mode in load_file(str(SHIPPED / f"{name}.toml")).modes()))]
JETSONS = [name for name in TARGETS if name.startswith("jetson")]

# What /proc/device-tree/model and /proc/device-tree/compatible hold on the boards, up to its NUL.
BOARDS = {
    "jetson-nano": ("NVIDIA Jetson Nano Developer Kit", ""),
    "jetson-tx2": ("quill", "nvidia,quill nvidia,p2597-0000+p3310-1000 nvidia,tegra186"),
    "jetson-xavier-nx": ("NVIDIA Jetson Xavier NX Developer Kit", ""),
    "jetson-agx-xavier": ("Jetson-AGX", "nvidia,p2822-0000+p2888-0001 nvidia,galen nvidia,jetson-xavier nvidia,tegra194"),
    "jetson-orin-nano": ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", ""),
    "jetson-orin-nx": ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "nvidia,p3768-0000+p3767-0000 nvidia,tegra234"),
    "jetson-orin-nx-8gb": ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "nvidia,p3768-0000+p3767-0001 nvidia,tegra234"),
    "jetson-agx-orin": ("NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0005 nvidia,p3701-0005 nvidia,tegra234"),
    "jetson-agx-thor": ("NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p4071-0000+p3834-0008 nvidia,p3834-0008 nvidia,tegra264"),
    "raspberry-pi-3b-plus": ("Raspberry Pi 3 Model B Plus Rev 1.3", "raspberrypi,3-model-b-plus brcm,bcm2837"),
    "raspberry-pi-4": ("Raspberry Pi 4 Model B Rev 1.4", "raspberrypi,4-model-b brcm,bcm2711"),
    "raspberry-pi-5": ("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b brcm,bcm2712"),
    "raspberry-pi-zero-2w": ("Raspberry Pi Zero 2 W Rev 1.0", "raspberrypi,model-zero-2-w brcm,bcm2837"),
    "rk3588": ("Radxa ROCK 5B", "radxa,rock-5b rockchip,rk3588"),
    "rk3568": ("Radxa ROCK3 Model A", "radxa,rock3a rockchip,rk3568"),
    "coral-dev-board-cpu": ("Freescale i.MX8MQ Phanbell", "fsl,imx8mq-phanbell fsl,imx8mq"),
    "beaglebone-ai64": ("BeagleBoard.org BeagleBone AI-64", "beagle,j721e-beagleboneai64 ti,j721e"),
}


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in an empty directory and sees only the shipped profiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TLX_PROFILES", raising=False)


def board(root: Path, model: str, compatible: str = "") -> Path:
    """A copy of the system files that identify a board."""
    folder = root / "proc/device-tree"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(model.encode() + b"\0")
    (folder / "compatible").write_bytes(compatible.replace(" ", "\0").encode() + b"\0")
    return root


def whole(name: str) -> dict[str, Any]:
    """A shipped profile as plain data, including inherited keys."""
    return json.loads(load_profile(str(SHIPPED / f"{name}.toml")).model_dump_json(exclude_none=True))  # type: ignore[no-any-return]


def facts(value: object, path: str = "") -> dict[str, Fact[Any]]:
    """Every Fact in a record, under its key path."""
    if isinstance(value, Fact):
        return {path: value}
    if not isinstance(value, Record):
        return {}
    return {key: fact for name, inner in value for key, fact in facts(inner, f"{path}.{name}".lstrip(".")).items()}


def changed(data: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of nested tables with one key replaced, or with None removed."""
    copy: dict[str, Any] = json.loads(json.dumps(data))
    *above, last = path.split(".")
    inner = copy
    for key in above:
        inner = inner.setdefault(key, {})
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return copy


def fact(value: object) -> dict[str, object]:
    return {"value": value, "source": "the test that wrote it", "status": "assumed"}


def write_variant(folder: Path, name: str, of: str, replace: Mapping[str, str] | None = None) -> Path:
    """A new profile from a shipped one: another name, and texts replaced as a user would in an editor."""
    text = (SHIPPED / f"{of}.toml").read_text(encoding="utf-8").replace(f'name = "{of}"', f'name = "{name}"')
    for old, new in (replace or {}).items():
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


# The shipped ones


def test_the_promised_devices_are_shipped() -> None:
    assert set(NAMES) >= {"cpu-x86", "cuda-gpu", "intel-n100", "intel-n5105", *BOARDS, "jetson-orin-nano-4gb", "jetson-agx-orin-32gb"}
    assert profile_names() == tuple(NAMES)


@pytest.mark.parametrize("name", TARGETS)
def test_a_shipped_profile_survives_being_written_into_a_manifest(name: str) -> None:
    profile = load_profile(name)
    assert profile.target == name
    assert (profile.name, profile.mode) == (name.split(":")[0], name.partition(":")[2] or None)
    assert Profile.parse(json.loads(profile.model_dump_json()), "manifest") == profile


@pytest.mark.parametrize("name", TARGETS)
def test_every_figure_says_where_it_comes_from(name: str) -> None:
    found = facts(load_profile(name))
    assert {"opset", "input_dtype", "precisions", "hardware.cpu", "hardware.cores", "hardware.memory_mb"} <= set(found)
    for key, figure in found.items():
        assert len(figure.source.split()) >= 3, f"{key}: {figure.source!r} does not say enough to be looked up"
        if figure.status == "read":  # a file of a repository, an issue, a numbered document, or the version that was run
            assert re.search(r"\w/\w|#\d|data sheet|notebookcheck|ONNX Runtime \d", figure.source), (
                f"{key}: {figure.source!r} names no document"
            )
            assert "from memory" not in figure.source


@pytest.mark.parametrize("name", TARGETS)
def test_a_shipped_profile_sets_every_budget(name: str) -> None:
    budget = load_profile(name).budget
    assert budget.size_bytes is not None
    assert budget.latency_p95_ms is not None
    assert budget.memory_bytes is not None
    assert budget.size_bytes < budget.memory_bytes < load_profile(name).hardware.memory_mb.value * 10**6


@pytest.mark.parametrize("name", NAMES)
def test_the_quantizer_is_a_plug_in_and_fits_the_runtime(name: str) -> None:
    profile = load_profile(name)
    if profile.int8 is None:
        assert "int8" not in profile.precisions.value
        return
    assert profile.int8.quantizer in plugins.names("quantizers")
    assert profile.int8.quantizer.endswith(profile.runtime)
    if profile.runtime == "tensorrt":  # zero points other than 0 are refused: onnx-tensorrt, docs/operators.md, QuantizeLinear
        assert profile.int8.activations == "int8"


@pytest.mark.parametrize("name", JETSONS)
def test_a_jetson_asks_for_nothing_its_tensorrt_or_gpu_lacks(name: str) -> None:
    profile = load_profile(name)
    assert profile.software.tensorrt is not None
    assert profile.hardware.compute_capability is not None
    if profile.input_dtype.value == "uint8":  # docs/operators.md of onnx/onnx-tensorrt: Cast from UINT8 is in the table from 8.6 on
        assert tuple(map(int, profile.software.tensorrt.value.split("."))) >= (8, 6)
    assert ("int8" in profile.precisions.value) == (profile.hardware.compute_capability.value not in ("5.3", "6.2"))
    assert profile.hardware.gpu is not None
    assert profile.hardware.fp16_tflops is not None


@pytest.mark.parametrize(
    ("name", "tensorrt", "opset", "input_dtype", "precisions"),
    [  # TensorRT of the board's last JetPack, and onnx/onnx-tensorrt's docs/operators.md for that version
        ("jetson-nano", "8.2.1", 13, "float32", ("fp32", "fp16")),
        ("jetson-tx2", "8.2.1", 13, "float32", ("fp32", "fp16")),
        ("jetson-agx-xavier", "8.5.2", 17, "float32", ("fp32", "fp16", "int8")),
        ("jetson-orin-nano-4gb", "10.3.0", 20, "uint8", ("fp32", "fp16", "int8")),
        ("jetson-orin-nx", "10.3.0", 20, "uint8", ("fp32", "fp16", "int8")),
        ("jetson-agx-thor", "10.16.2", 20, "uint8", ("fp32", "fp16", "int8")),
        ("jetson-xavier-nx", "8.5.2", 17, "float32", ("fp32", "fp16", "int8")),
        ("jetson-orin-nano", "10.3.0", 20, "uint8", ("fp32", "fp16", "int8")),
        ("jetson-agx-orin", "10.3.0", 20, "uint8", ("fp32", "fp16", "int8")),
    ],
)
def test_what_each_jetson_takes(name: str, tensorrt: str, opset: int, input_dtype: str, precisions: tuple[str, ...]) -> None:
    profile = load_profile(name)
    assert profile.software.tensorrt is not None
    found = (profile.software.tensorrt.value, profile.opset.value, profile.input_dtype.value, profile.precisions.value)
    assert found == (tensorrt, opset, input_dtype, precisions)


def test_arm_and_x86_get_different_activation_types() -> None:
    for profile in map(load_profile, NAMES):
        if profile.runtime == "onnxruntime" and profile.int8 is not None:
            assert profile.int8.activations == {"x86_64": "uint8", "aarch64": "int8"}[profile.match.machine], profile.name


def test_reading_profiles_loads_no_heavy_library() -> None:
    code = "import sys; from tlexport.hardware.target import resolve; resolve('jetson'); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SHIPPED.parent)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "onnx", "onnxruntime", "rich"} & set(run.stdout.split())


def test_in_an_installed_package_the_profiles_lie_inside(tmp_path: Path) -> None:
    package = tmp_path / "site/tlexport"
    shutil.copytree(SHIPPED.parent / "tlexport", package, ignore=shutil.ignore_patterns("__pycache__", "embedded"))
    shutil.copytree(SHIPPED, package / "profiles")
    code = "from tlexport.hardware.target import profile_path; print(profile_path('cpu-x86'))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert Path(run.stdout.strip()) == package / "profiles/cpu-x86.toml"


# The document


def test_the_example_in_the_document_is_a_profile() -> None:
    blocks = re.findall(r"^( *)```toml\n(.*?)^ *```", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    whole = [tomllib.loads(textwrap.dedent(text)) for _, text in blocks if "format" in text]
    assert [Profile.parse(data, str(DOCUMENT)).name for data in whole] == ["kiosk"]


def test_the_document_explains_every_key() -> None:
    explained = set(re.findall(r"`([a-z0-9_.]+)`", DOCUMENT.read_text(encoding="utf-8")))
    tables: dict[str, type[Record]] = {
        "": Profile,
        "int8.": Int8,
        "match.": Match,
        "software.": Software,
        "hardware.": Hardware,
        "budget.": Budget,
    }
    keys = {table + key for table, record in tables.items() for key in record.model_fields} - {"software", "hardware", "mode"}
    assert keys | set(as_written().model_fields) - {"software", "hardware"} <= explained


def test_the_document_s_table_of_jetsons_is_what_the_profiles_say() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").partition("## What each Jetson gets")[2].partition("\n## ")[0]
    rows = {}
    for name in (name for name in JETSONS if ":" not in name):
        profile = load_profile(name)
        software = (getattr(profile.software, key).value for key in ("jetpack", "tensorrt", "cuda", "python"))
        rows[name] = [*software, str(profile.opset.value), profile.input_dtype.value, " ".join(profile.precisions.value)]
    written = re.findall(r"^\| `(.+?)` \| (.+) \|$", text, re.MULTILINE)
    assert {name: row.split(" | ") for name, row in written} == rows


# Wrong ones


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("opset.valu", 17, ["opset.valu: unknown key", "did you mean 'value'?"]),
        ("hardware.bandwith_gb_s", fact(10.0), ["hardware.bandwith_gb_s: unknown key", "did you mean 'bandwidth_gb_s'?"]),
        ("budget.latency", "10 ms", ["budget.latency: unknown key", "did you mean 'latency_p95'?"]),
        ("software.tensort", fact("10.3.0"), ["software.tensort: unknown key", "did you mean 'tensorrt'?"]),
        ("zzz", 1, ["zzz: unknown key"]),
        ("opset.source", None, ["opset.source: missing"]),
        ("hardware.cpu", None, ["hardware.cpu: missing"]),
        ("opset", 17, ["opset: a table with the keys value, source, status was expected", "found 17"]),
        ("match", "Raspberry Pi", ["match: a table with the keys machine, device_tree, cpu, gpu was expected"]),
        ("opset.value", "17", ["opset.value", "valid integer", "found '17'"]),
        ("opset.value", 12, ["opset.value", "greater than or equal to 13", "found 12"]),
        ("hardware.cores.value", -4, ["hardware.cores.value", "greater than or equal to 1", "found -4"]),
        ("hardware.cores.value", True, ["hardware.cores.value", "valid integer"]),
        ("hardware.bandwidth_gb_s", fact(-1.5), ["hardware.bandwidth_gb_s.value", "greater than 0", "found -1.5"]),
        ("hardware.memory_mb.value", 0, ["hardware.memory_mb.value", "found 0"]),
        ("opset.source", "web", ["opset.source", "at least 8 characters"]),
        ("opset.status", "guessed", ["opset.status", "'read', 'derived' or 'assumed'", "found 'guessed'"]),
        ("runtime", "onnx", ["runtime", "'onnxruntime' or 'tensorrt'", "found 'onnx'"]),
        ("precisions.value", ["fp32", "fp8"], ["precisions.value.1", "found 'fp8'"]),
        ("precisions.value", [], ["precisions.value", "at least 1 item"]),
        ("precisions.value", ["fp32", "int8", "fp32"], ["precisions.value", "twice"]),
        ("precisions.value", ["fp32"], ["[int8] is required if"]),
        ("precisions.value", ["int8"], ["precisions must contain 'fp32'"]),
        ("int8", None, ["[int8] is required if"]),
        ("budget.size", "8 MBs", ["budget.size", "write a number and one of", "mb", "found '8 MBs'"]),
        ("budget.size", 8, ["budget.size", "valid string", "found 8"]),
        ("budget.memory", "300 ms", ["budget.memory", "write a number and one of", "found '300 ms'"]),
        ("budget.latency_p95", "-10 ms", ["budget.latency_p95", "write a number and one of", "found '-10 ms'"]),
        ("budget.latency_p95", "0 ms", ["budget.latency_p95", "more than 0"]),
        ("budget.energy", "50 mW", ["budget.energy", "write a number and one of", "mj", "found '50 mW'"]),
        ("match.gpu", "amd", ["match.gpu", "'nvidia'", "found 'amd'"]),
        ("device", "cpu", ["device", "'cuda'", "found 'cpu'"]),
        ("hardware.power_w", fact(0), ["hardware.power_w.value", "greater than 0"]),
        ("workspace_mb", fact(256), ["workspace_mb is required if"]),
        ("software.tensorrt", fact("10.3.0"), ["[software.tensorrt] is required if"]),
        ("name", "My Board", ["name", "pattern", "found 'My Board'"]),
        ("format", 2, ["format", "found 2"]),
    ],
)
def test_a_wrong_key_is_named_with_what_was_found_and_expected(path: str, value: object, parts: list[str]) -> None:
    good = whole("cpu-x86")
    assert Profile.parse(good, "x").name == "cpu-x86"
    with pytest.raises(InvalidFile) as error:
        Profile.parse(changed(good, path, value), "my.toml")
    assert "my.toml is not a valid profile" in error.value.message
    for part in parts:
        assert part in error.value.message


@pytest.mark.parametrize(
    ("base", "path", "value", "parts"),
    [
        ("jetson-nano", "opset.value", 17, ["opset 17", "TensorRT 8.2.1 reads up to 13"]),
        ("jetson-xavier-nx", "opset.value", 20, ["opset 20", "TensorRT 8.5.2 reads up to 17"]),
        ("jetson-orin-nano", "opset.value", 22, ["opset 22", "TensorRT 10.3.0 reads up to 20"]),
        ("jetson-nano", "input_dtype.value", "uint8", ["input_dtype uint8", "TensorRT 8.2.1", "use float32"]),
        ("jetson-orin-nano", "hardware.compute_capability.value", "5.3", ["compute capability 5.3 has no INT8"]),
        ("jetson-orin-nano", "software.tensorrt.value", "ten", ["software.tensorrt.value", "pattern", "found 'ten'"]),
        ("jetson-orin-nano", "software.tensorrt", None, ["[software.tensorrt] is required if"]),
        ("jetson-orin-nano", "device", "cuda", ["device is for runtime 'onnxruntime'"]),
        ("jetson-orin-nano", "workspace_mb", None, ["workspace_mb is required if"]),
        ("jetson-orin-nano", "workspace_mb.value", -256, ["workspace_mb.value", "greater than or equal to 16", "found -256"]),
    ],
)
def test_what_a_board_cannot_do_is_refused(base: str, path: str, value: object, parts: list[str]) -> None:
    with pytest.raises(InvalidFile) as error:
        Profile.parse(changed(whole(base), path, value), "my.toml")
    for part in parts:
        assert part in error.value.message


@pytest.mark.parametrize(
    ("version", "newest"), [("8.2", 13), ("8.4", 17), ("8.6.1", 17), ("10.0", 20), ("10.8.0.43", 20), ("10.9", 22), ("11.4", 25)]
)
def test_the_newest_opset_of_a_tensorrt_version_is_taken_and_the_next_refused(version: str, newest: int) -> None:
    data = changed(whole("jetson-xavier-nx"), "software.tensorrt.value", version)
    assert Profile.parse(changed(data, "opset.value", newest), "x").opset.value == newest
    with pytest.raises(InvalidFile, match=rf"reads up to {newest}|less than or equal to {newest}"):
        Profile.parse(changed(data, "opset.value", newest + 1), "x")


def test_all_mistakes_are_reported_at_once() -> None:
    wrong = changed(changed(whole("cpu-x86"), "opset.value", "17"), "budget.size", "big")
    with pytest.raises(InvalidFile) as error:
        Profile.parse(wrong, "my.toml")
    assert "opset.value" in error.value.message
    assert "budget.size" in error.value.message


def test_a_bare_date_is_an_error_of_the_file() -> None:
    path = write_variant(Path(), "dated", of="cpu-x86", replace={'title = "x86-64 CPU"': "title = 2024-05-01"})
    with pytest.raises(InvalidFile, match=r"line \d+: title: .*date may lack its quotes"):
        load_profile(str(path))


@given(st.floats(min_value=1, max_value=1e6), st.sampled_from(["MB", "mb", "kB", "GiB", " B"]))
def test_a_limit_is_kept_as_it_was_written(number: float, unit: str) -> None:
    text = f"{number:f}{unit}"
    profile = Profile.parse(changed(whole("cpu-x86"), "budget.size", text), "x")
    assert profile.budget.size == text
    scale = {"mb": 10**6, "kb": 10**3, "gib": 2**30, "b": 1}[unit.strip().lower()]
    assert profile.budget.size_bytes == pytest.approx(number * scale, rel=1e-6, abs=1)


# Where they are looked for


def test_a_device_is_added_by_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_variant(
        tmp_path / "mine",
        "conveyor-camera",
        of="jetson-orin-nano",
        replace={'device_tree = "Jetson Orin Nano"': 'device_tree = "Conveyor"', '"10 ms"': '"3 ms"'},
    )
    monkeypatch.setenv("TLX_PROFILES", str(tmp_path / "mine"))
    root = board(tmp_path / "root", "ACME Conveyor Camera")
    target = resolve("conveyor-camera", root, "aarch64")
    assert (target.profile.name, target.path, target.here, target.note) == ("conveyor-camera", path, True, "")
    assert target.profile.budget.latency_p95_ms == 3
    assert "conveyor-camera" in profile_names()


def test_a_profile_in_the_current_directory_is_found_and_said_to_replace_the_shipped_one() -> None:
    path = write_variant(Path("profiles"), "cpu-x86", of="cpu-x86", replace={'"100 ms"': '"7 ms"'})
    target = resolve("cpu-x86", machine="x86_64")
    assert target.profile.budget.latency_p95_ms == 7
    assert str(path) in target.note
    assert str(SHIPPED / "cpu-x86.toml") in target.note
    assert profile_names() == tuple(NAMES), "one name, once"


def test_the_current_directory_comes_before_the_variable_and_its_folders_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("first", "second"):
        write_variant(tmp_path / folder, "board", of="raspberry-pi-5", replace={'title = "Raspberry Pi 5"': f'title = "{folder}"'})
    monkeypatch.setenv("TLX_PROFILES", os.pathsep.join([str(tmp_path / "first"), str(tmp_path / "second")]))
    assert load_profile("board").title == "first"
    monkeypatch.setenv("TLX_PROFILES", os.pathsep.join([str(tmp_path / "second"), str(tmp_path / "first")]))
    assert load_profile("board").title == "second"
    write_variant(Path("profiles"), "board", of="raspberry-pi-5")
    assert load_profile("board").title == "Raspberry Pi 5"
    assert "second" in resolve("board").note
    assert "first" in resolve("board").note


def test_in_the_checkout_nothing_is_said_to_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SHIPPED.parent)
    assert resolve("jetson-nano").note == ""
    assert profile_path("jetson-nano").resolve() == SHIPPED / "jetson-nano.toml"


def test_a_path_is_taken_as_it_is() -> None:
    path = write_variant(Path("elsewhere"), "odd", of="cpu-x86")
    target = resolve(str(path), machine="x86_64")
    assert (target.profile.name, target.path, target.note) == ("odd", path, "")
    assert "odd" not in profile_names()


def test_a_profile_must_bear_the_name_of_its_file() -> None:
    path = write_variant(Path("profiles"), "cpu-x86", of="cpu-x86").rename(Path("profiles/my-pc.toml"))
    for name in ("my-pc", str(path)):
        with pytest.raises(InvalidFile, match="has the name 'cpu-x86'") as error:
            load_profile(name)
        assert error.value.hint == 'write: name = "my-pc"'


@pytest.mark.parametrize(
    ("name", "guess"), [("jetson-orinnano", "jetson-orin-nano"), ("raspberry-pi5", "raspberry-pi-5"), ("cpu_x86", "cpu-x86")]
)
def test_an_unknown_name_gets_the_nearest_one_and_the_list(name: str, guess: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(name)
    assert f"did you mean '{guess}'?" in error.value.message
    for known in NAMES:
        assert known in error.value.hint


@pytest.mark.parametrize("name", ["", ".", "../profiles/cpu-x86", "zzzz"])
def test_what_is_no_name_is_not_looked_up_as_a_path(name: str) -> None:
    with pytest.raises(UsageError, match="there is no profile"):
        resolve(name)


def test_a_path_without_a_file() -> None:
    with pytest.raises(InvalidFile, match=r"nothing\.toml does not exist"):
        resolve("nothing.toml")


def test_a_folder_that_is_not_there_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLX_PROFILES", "no-such-folder")
    with pytest.raises(UsageError, match="TLX_PROFILES names no-such-folder"):
        profile_names()


# Whether this machine is the device, and what jetson means


@pytest.mark.parametrize("name", [name for name in BOARDS if name.startswith("jetson")])
def test_jetson_means_the_board_this_runs_on(tmp_path: Path, name: str) -> None:
    root = board(tmp_path / "root", *BOARDS[name])
    assert this_machine(root).board == BOARDS[name][0]
    target = resolve("jetson", root, "aarch64")
    assert (target.profile.name, target.here) == (name, True)
    assert name in target.note
    assert BOARDS[name][0] in target.note


@pytest.mark.parametrize("name", BOARDS)
def test_each_board_is_one_profile_only(tmp_path: Path, name: str) -> None:
    root = board(tmp_path / "root", *BOARDS[name])
    assert [other for other in NAMES if other != "cpu-arm64" and resolve(other, root, "aarch64").here] == [name]
    assert resolve("cpu-arm64", root, "aarch64").here, "a family of machines, to which every board belongs"


@pytest.mark.parametrize(
    ("model", "compatible", "name"),
    [
        (BOARDS["jetson-orin-nano"][0], "nvidia,p3768-0000+p3767-0004-super nvidia,p3767-0004 nvidia,tegra234", "jetson-orin-nano-4gb"),
        (BOARDS["jetson-orin-nano"][0], "nvidia,p3768-0000+p3767-0003-super nvidia,p3767-0003 nvidia,tegra234", "jetson-orin-nano"),
        (BOARDS["jetson-agx-orin"][0], "nvidia,p3737-0000+p3701-0004 nvidia,p3701-0004 nvidia,tegra234", "jetson-agx-orin-32gb"),
    ],
)
def test_modules_that_share_a_name_are_told_apart_by_their_part_number(tmp_path: Path, model: str, compatible: str, name: str) -> None:
    assert resolve("jetson", board(tmp_path / "root", model, compatible), "aarch64").profile.name == name


def test_a_power_mode_of_this_jetson(tmp_path: Path) -> None:
    target = resolve("jetson:5w", board(tmp_path / "root", *BOARDS["jetson-nano"]), "aarch64")
    assert (target.profile.target, target.here) == ("jetson-nano:5w", True)


def test_a_processor_is_told_by_its_name_and_a_gpu_by_its_driver(tmp_path: Path) -> None:
    proc = tmp_path / "root/proc"
    proc.mkdir(parents=True)
    (proc / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Intel(R) N100\nflags\t: N5105\n")

    def found() -> list[str]:
        return [name for name in NAMES if resolve(name, tmp_path / "root", "x86_64").here]

    assert found() == ["cpu-x86", "intel-n100"]
    (proc / "driver/nvidia").mkdir(parents=True)
    (proc / "driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1")
    assert found() == ["cpu-x86", "cuda-gpu", "intel-n100"]


def test_jetson_elsewhere_is_the_orin_nano_and_says_so(tmp_path: Path) -> None:
    target = resolve("jetson", tmp_path, "x86_64")
    assert (target.profile.name, target.here) == ("jetson-orin-nano", False)
    assert "jetson-orin-nano" in target.note
    assert "not a Jetson" in target.note


def test_a_raspberry_pi_is_no_jetson(tmp_path: Path) -> None:
    root = board(tmp_path / "root", "Raspberry Pi 5 Model B Rev 1.0")
    assert resolve("raspberry-pi-5", root, "aarch64").here
    assert "not a Jetson" in resolve("jetson", root, "aarch64").note


def test_a_jetson_without_a_profile_is_named(tmp_path: Path) -> None:
    target = resolve("jetson", board(tmp_path / "root", "NVIDIA Jetson TX1 Developer Kit"), "aarch64")
    assert (target.profile.name, target.here) == ("jetson-orin-nano", False)
    assert "NVIDIA Jetson TX1 Developer Kit" in target.note
    assert "write a profile" in target.note


def test_the_profile_that_says_more_about_the_board_wins(tmp_path: Path) -> None:
    root = board(tmp_path / "root", "NVIDIA Jetson Nano 2GB Developer Kit")
    assert resolve("jetson", root, "aarch64").profile.name == "jetson-nano"
    write_variant(
        Path("profiles"), "jetson-nano-2gb", of="jetson-nano", replace={'device_tree = "Jetson Nano"': 'device_tree = "Jetson Nano 2GB"'}
    )
    assert resolve("jetson", root, "aarch64").profile.name == "jetson-nano-2gb"


def test_a_family_of_machines_is_not_taken_for_a_board(tmp_path: Path) -> None:
    write_variant(Path("profiles"), "arm-server", of="cpu-x86", replace={'machine = "x86_64"': 'machine = "aarch64"'})
    root = board(tmp_path / "root", "NVIDIA Jetson Nano Developer Kit")
    assert resolve("arm-server", root, "aarch64").here
    assert resolve("jetson", root, "aarch64").profile.name == "jetson-nano"


def test_two_profiles_for_one_board_have_to_be_told_apart(tmp_path: Path) -> None:
    write_variant(Path("profiles"), "line-3", of="jetson-nano")
    root = board(tmp_path / "root", "NVIDIA Jetson Nano Developer Kit")
    with pytest.raises(UsageError, match="jetson-nano or line-3"):
        resolve("jetson", root, "aarch64")
    assert resolve("line-3", root, "aarch64").here


def test_a_users_profile_called_jetson_comes_first(tmp_path: Path) -> None:
    write_variant(Path("profiles"), "jetson", of="jetson-nano")
    assert resolve("jetson", tmp_path, "x86_64").profile.name == "jetson"


@pytest.mark.parametrize(("machine", "here"), [("x86_64", True), ("AMD64", True), ("aarch64", False), ("arm64", False), ("riscv64", False)])
def test_a_processor_goes_by_any_of_its_names(tmp_path: Path, machine: str, here: bool) -> None:
    assert resolve("cpu-x86", tmp_path, machine).here is here


def test_a_board_needs_both_its_processor_and_its_name(tmp_path: Path) -> None:
    root = board(tmp_path / "root", "NVIDIA Jetson Nano Developer Kit")
    assert not resolve("jetson-nano", root, "x86_64").here
    assert not resolve("jetson-nano", tmp_path, "aarch64").here
    assert this_machine(tmp_path).board is None
