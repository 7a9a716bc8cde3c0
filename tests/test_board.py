"""Identification of a board from copies of its system files, and the comparison of its software with its profile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from boards import AGX_ORIN, JETSONS, NANO, ORIN_NANO, THOR, TX2, XAVIER_NX, Board, packages, power_modes, release, tree, write, zones

from tlexport.api.doctor import _board
from tlexport.bench.environment import describe_machine
from tlexport.device.board import description as board
from tlexport.hardware.profile import newest_opset
from tlexport.hardware.target import load_profile, profile_names, resolve
from tlexport.measurement import Environment

EVERY = pytest.mark.parametrize("jetson", JETSONS, ids=lambda jetson: jetson.profile)


@EVERY
def test_a_jetson_says_what_it_is_and_how_it_is_set(tmp_path: Path, jetson: Board) -> None:
    found = board.describe_board(str(write(tmp_path, jetson.files)))
    assert {key: found[key] for key in jetson.told} == jetson.told
    assert json.loads(json.dumps(found)) == found


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    assert set(board.describe_board(str(tmp_path)).values()) == {None}


@EVERY
def test_every_file_may_be_damaged(tmp_path: Path, jetson: Board) -> None:
    whole = board.describe_board(str(write(tmp_path / "whole", jetson.files)))
    found = board.describe_board(
        str(write(tmp_path / "odd", dict.fromkeys(jetson.files, "\udcff no such thing\n".encode("utf-8", "ignore").decode())))
    )
    assert set(found) == set(whole)
    assert all(found[key] is None for key in ("l4t", "jetpack", "tensorrt", "cuda", "power_mode", "temperatures_c", "memory_bytes"))


def test_other_boards_are_described_as_far_as_they_tell(tmp_path: Path) -> None:
    pi = tree("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b", "brcm,bcm2712") | zones(cpu_thermal=61.3)
    pi["sys/devices/platform/soc/soc:firmware/get_throttled"] = "50005\n"  # as %x: now under-voltage and throttled, both earlier, too
    found = board.describe_board(str(write(tmp_path, pi)))
    assert (found["module"], found["soc"], found["part"]) == ("Raspberry Pi 5 Model B Rev 1.0", "bcm2712", None)
    assert found["throttled"] == ["under-voltage", "throttled"]
    assert found["temperatures_c"] == {"cpu-thermal": 61.3}
    write(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "80000\n"})
    assert board.describe_board(str(tmp_path))["throttled"] == ["soft temperature limit (earlier)"]


@pytest.mark.parametrize(
    ("answer", "mode"),
    [
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\n", ("MAXN", 0)),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_20W_6CORE\n8\n", ("MODE_20W_6CORE", 8)),
        ("NV Power Mode: 25W\n1\n", ("25W", 1)),
        ("NVPM ERROR: cannot open /var/lib/nvpmodel/status\n", (None, None)),
    ],
)
def test_what_nvpmodel_prints(answer: str, mode: tuple[str | None, int | None]) -> None:
    assert board.parse_power_mode(answer) == mode


def test_a_power_mode_without_a_name_keeps_its_number(tmp_path: Path) -> None:
    write(tmp_path, power_modes(7, 0, "MAXN"))
    assert board.power_mode(str(tmp_path)) == (None, 7)


@pytest.mark.parametrize("l4t", board.JETPACKS)
def test_what_follows_from_l4t_is_said_to_follow(tmp_path: Path, l4t: str) -> None:
    major, _, revision = l4t.partition(".")
    found = board.software(str(write(tmp_path, release(int(major), revision))))
    assert (found["l4t"], found["jetpack"]) == (l4t, board.JETPACKS[l4t])
    assert found["jetpack_source"] == found["tensorrt_source"] == f"derived from L4T {l4t}"
    assert found["tensorrt"]


def test_a_profile_s_software_is_what_the_tables_say() -> None:
    for profile in map(load_profile, profile_names()):
        if profile.software.l4t is not None:
            assert profile.software.jetpack is not None and profile.software.tensorrt is not None
            assert profile.software.jetpack.value == board.JETPACKS[profile.software.l4t.value], profile.name
            assert profile.software.tensorrt.value == board._tensorrt_of(profile.software.l4t.value), profile.name


def test_an_l4t_that_is_not_known_is_not_given_a_jetpack(tmp_path: Path) -> None:
    found = board.software(str(write(tmp_path, release(36, "9.9"))))
    assert (found["l4t"], found["jetpack"], found["jetpack_source"]) == ("36.9.9", None, None)
    write(tmp_path, release(41, "1.0"))
    assert board.software(str(tmp_path))["tensorrt"] is None


def test_l4t_from_its_package_where_the_release_file_is_missing(tmp_path: Path) -> None:
    write(tmp_path, packages(nvidia_l4t_core="36.4.7-20250918154033", libnvinfer10="10.3.0.30-1+cuda12.5", libnvinfer8="8.6.2-1+cuda12.2"))
    found = board.software(str(tmp_path))
    assert (found["l4t"], found["jetpack"], found["tensorrt"]) == ("36.4.7", "6.2.1", "10.3.0.30")


@EVERY
def test_a_measurement_on_a_board_carries_its_state(tmp_path: Path, jetson: Board) -> None:
    root = str(write(tmp_path, jetson.files))
    environment = describe_machine(root=root)
    assert environment.board is not None
    assert {key: environment.board[key] for key in jetson.told} == jetson.told
    written = json.loads(environment.model_dump_json())
    assert Environment.parse(written, "a record") == environment
    assert Environment.parse({key: value for key, value in written.items() if key != "board"}, "an older record").board is None


def test_a_measurement_elsewhere_carries_none(tmp_path: Path) -> None:
    assert describe_machine(root=str(tmp_path)).board is None


# The board's software against its profile's


@EVERY
def test_jetson_is_the_profile_of_the_module(tmp_path: Path, jetson: Board) -> None:
    target = resolve("jetson", write(tmp_path, jetson.files), "aarch64")
    assert (target.profile.name, target.here) == (jetson.profile, True)


@pytest.mark.parametrize("jetson", [NANO, AGX_ORIN, THOR], ids=lambda jetson: jetson.profile)
def test_nothing_is_said_of_software_that_is_the_profile_s(tmp_path: Path, jetson: Board) -> None:
    assert resolve(jetson.profile, write(tmp_path, jetson.files), "aarch64").note == ""


@pytest.mark.parametrize("jetson", [TX2, XAVIER_NX, ORIN_NANO], ids=lambda jetson: jetson.profile)
def test_another_l4t_with_the_same_tensorrt_changes_nothing(tmp_path: Path, jetson: Board) -> None:
    note = resolve(jetson.profile, write(tmp_path, jetson.files), "aarch64").note
    profile = load_profile(jetson.profile)
    assert profile.software.tensorrt and profile.software.l4t
    for told in (jetson.told["l4t"], jetson.told["jetpack"], profile.software.l4t.value, profile.software.tensorrt.value, "is the same"):
        assert str(told) in note
    assert "profiles new" not in note


@pytest.mark.parametrize(
    ("jetson", "files", "tensorrt", "fails"),
    [
        (ORIN_NANO, release(35, "4.1") | packages(libnvinfer8="8.5.2-1+cuda11.4", nvidia_jetpack="5.1.2-b104"), "8.5.2", True),
        (ORIN_NANO, release(36, "3.0") | packages(libnvinfer8="8.6.2.3-1+cuda12.2"), "8.6.2.3", True),
        (ORIN_NANO, release(39, "2.0") | packages(libnvinfer10="10.16.2.10-1+cuda13.2", nvidia_jetpack="7.2-b187"), "10.16.2.10", False),
        (XAVIER_NX, release(32, "7.1") | packages(libnvinfer8="8.2.1-1+cuda10.2"), "8.2.1", True),
        (THOR, release(38, "4.0"), "10.13.3", False),
    ],
)
def test_another_tensorrt_is_told_with_what_follows(
    tmp_path: Path, jetson: Board, files: dict[str, str], tensorrt: str, fails: bool
) -> None:
    without = {name: text for name, text in jetson.files.items() if name != "var/lib/dpkg/status"}
    target = resolve("jetson", write(tmp_path, without | files), "aarch64")
    profile = load_profile(jetson.profile)
    assert target.profile == profile, "never changed silently"
    newest = newest_opset(board.version_tuple(tensorrt))
    assert (profile.opset.value > newest) == fails
    assert ("no engine can be built" in target.note) == fails
    source = "/var/lib/dpkg/status" if "var/lib/dpkg/status" in files else "derived from L4T"
    for told in (
        f"TensorRT {tensorrt} ({source}",
        "/etc/nv_tegra_release",
        f"opset {newest}",
        f"tlx profiles new NAME --from {jetson.profile}",
    ):
        assert told in target.note


def test_tensorrt_that_is_not_installed_is_told_with_the_command(tmp_path: Path) -> None:
    note = resolve("jetson", write(tmp_path, ORIN_NANO.files | packages()), "aarch64").note
    assert "no TensorRT is installed (/var/lib/dpkg/status): sudo apt install nvidia-jetpack" in note


def test_a_board_elsewhere_is_not_held_against_this_one(tmp_path: Path) -> None:
    assert resolve("jetson-agx-thor", write(tmp_path, NANO.files), "aarch64").note == ""


def test_doctor_shows_what_decides_how_fast_a_board_is(tmp_path: Path) -> None:
    shown = _board(str(write(tmp_path, AGX_ORIN.files))).detail
    for told in (
        "AGX Orin",
        "p3701-0005",
        "L4T 36.5.0",
        "JetPack 6.2.2",
        "TensorRT 10.3.0.30",
        "power mode MAXN",
        "clocks locked",
        "48.5 °C",
    ):
        assert told in shown
    assert "sudo jetson_clocks" in _board(str(write(tmp_path / "nano", NANO.files))).detail
    assert _board(str(tmp_path / "nowhere")).detail.startswith("none")
