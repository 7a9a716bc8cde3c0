"""Free memory for building an engine, and the state of a board during runs: energy, temperature, throttling."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from boards import AGX_ORIN, JETSONS, NANO, Board, clock, cores, hwmon, meminfo, swaps, write, zones
from hypothesis import given, settings
from hypothesis import strategies as st

from tlexport.device.board.power import Counter, Meter
from tlexport.device.board.state import COPIES, CUDA_BYTES, Watch, needed_for_build, preflight
from tlexport.device.errors import Unsupported
from tlexport.hardware.target import load_profile

MIB = 2**20
GET_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
RAPL = "sys/class/powercap/intel-rapl:0"


# Room for a build


def test_a_build_needs_its_workspace_its_weights_and_cuda() -> None:
    assert needed_for_build(256 * MIB, 14 * 10**6) - needed_for_build(0, 14 * 10**6) == 256 * MIB
    assert needed_for_build(0, 0) == CUDA_BYTES
    assert needed_for_build(0, 2 * 10**6) == CUDA_BYTES + COPIES * 2 * 10**6


@pytest.mark.parametrize("name", ["jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-orin-nano", "jetson-agx-thor"])
def test_a_board_whose_memory_is_free_has_room_for_the_largest_backbone(tmp_path: Path, name: str) -> None:
    profile = load_profile(name)
    assert profile.workspace_mb is not None
    free = int(profile.hardware.memory_mb.value * 10**6 * 0.6) // 1024
    write(tmp_path, meminfo(free * 2, free))
    assert preflight(needed_for_build(profile.workspace_mb.value * MIB, 102 * 10**6), str(tmp_path)) == free * 1024


def test_too_little_memory_is_told_with_figures_and_remedies(tmp_path: Path) -> None:
    files = NANO.files | meminfo(4_059_312, 600_000) | {"proc/4711/comm": "gnome-shell\n", "proc/1/comm": "systemd\n", "proc/cpuinfo": ""}
    with pytest.raises(Unsupported) as error:
        preflight(needed_for_build(256 * MIB, 14 * 10**6), str(write(tmp_path, files)))
    assert error.value.exit_code == 4
    assert "takes about 1.0 GB" in error.value.message
    assert "614 MB of memory are free" in error.value.message
    for remedy in ("sudo systemctl isolate multi-user.target", "fallocate -l 2G /swapfile", "nvzramconfig", "workspace_mb"):
        assert remedy in error.value.hint


def test_what_is_not_there_is_not_to_be_stopped(tmp_path: Path) -> None:
    with pytest.raises(Unsupported) as error:
        preflight(10**9, str(write(tmp_path, meminfo(2_000_000, 100_000))))
    assert "multi-user" not in error.value.hint
    assert "zram" not in error.value.hint


def test_swap_on_a_disk_counts_and_zram_does_not(tmp_path: Path) -> None:
    write(tmp_path, meminfo(4_000_000, 500_000, 3_000_000) | swaps(("/dev/zram0", 2_000_000, 0)))
    with pytest.raises(Unsupported):
        preflight(10**9, str(tmp_path))
    write(tmp_path, swaps(("/dev/zram0", 2_000_000, 0), ("/swapfile", 1_000_000, 400_000)))
    assert preflight(10**9, str(tmp_path)) == (500_000 + 600_000) * 1024
    with pytest.raises(Unsupported, match="512 MB of memory are free and 614 MB of swap"):
        preflight(2 * 10**9, str(tmp_path))


def test_what_cannot_be_known_is_no_obstacle(tmp_path: Path) -> None:
    assert preflight(10**15, str(tmp_path)) is None


# Power


@pytest.mark.parametrize("jetson", JETSONS, ids=lambda jetson: jetson.profile)
def test_each_board_s_sensors_are_read_in_their_units(tmp_path: Path, jetson: Board) -> None:
    meter = Meter(str(write(tmp_path, jetson.files)))
    for now in (10.0, 10.5, 14.0):
        meter.read(now)
    result = meter.result()
    assert (result["rail"], result["power_reason"]) == (jetson.rail, "")
    assert result["watts"] == pytest.approx(jetson.watts)
    assert result["energy_mj"] == pytest.approx(jetson.watts * 4 * 1000)
    assert "NC" not in str(result["rails_w"])


def test_energy_is_the_area_below_the_power(tmp_path: Path) -> None:
    def power(milliamperes: int) -> None:
        write(tmp_path, hwmon(0, ("VDD_IN", 5000, milliamperes)))

    power(1000)
    meter = Meter(str(tmp_path))
    for now, milliamperes in ((0.0, 1000), (1.0, 2000), (3.0, 2000), (4.0, 0)):  # 5, 10, 10 and 0 W
        power(milliamperes)
        meter.read(now)
    result = meter.result()
    assert result["energy_mj"] == pytest.approx(1000 * (7.5 + 20 + 5))
    assert result["watts"] == pytest.approx(32.5 / 4)


def test_one_reading_is_no_energy(tmp_path: Path) -> None:
    meter = Meter(str(write(tmp_path, NANO.files)))
    meter.read(1.0)
    result = meter.result()
    assert (result["energy_mj"], result["watts"], result["rail"]) == (None, None, None)
    assert "shorter than two readings" in str(result["power_reason"])


def test_a_sensor_that_fails_meanwhile_is_left_out_of_that_moment(tmp_path: Path) -> None:
    write(tmp_path, NANO.files)
    meter, file = Meter(str(tmp_path)), tmp_path / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input"
    meter.read(0.0)
    file.rename(file.with_suffix(".away"))
    meter.read(1.0)
    file.with_suffix(".away").rename(file)
    meter.read(2.0)
    assert meter.result()["watts"] == pytest.approx(NANO.watts)
    assert meter.result()["energy_mj"] == pytest.approx(NANO.watts * 2000)


def test_no_sensor_is_said(tmp_path: Path) -> None:
    meter = Meter(str(tmp_path))
    meter.read(0.0)
    meter.read(1.0)
    assert meter.result()["watts"] is None
    assert "no power sensor" in str(meter.result()["power_reason"])


def rapl(root: Path, package: int, microjoules: str, most: int = 262_143_328_850) -> None:
    base = f"sys/class/powercap/intel-rapl:{package}"
    write(root, {f"{base}/name": f"package-{package}\n", f"{base}/max_energy_range_uj": f"{most}\n", f"{base}/energy_uj": microjoules})
    write(root, {f"{base}:0/name": "core\n", f"{base}:0/max_energy_range_uj": f"{most}\n", f"{base}:0/energy_uj": microjoules})


@settings(deadline=None, max_examples=30)
@given(start=st.integers(0, 999_999), steps=st.lists(st.integers(0, 900_000), min_size=1, max_size=8))
def test_a_counter_that_starts_again_loses_nothing(tmp_path_factory: pytest.TempPathFactory, start: int, steps: list[int]) -> None:
    root, count = tmp_path_factory.mktemp("rapl"), start
    rapl(root, 0, str(start), most=1_000_000)
    meter = Meter(str(root))
    meter.read(0.0)
    for second, step in enumerate(steps, 1):
        count = (count + step) % 1_000_000
        rapl(root, 0, str(count), most=1_000_000)
        meter.read(float(second))
    assert meter.result()["energy_mj"] == pytest.approx(sum(steps) / 1000)
    assert meter.result()["rail"] == "package-0"


def test_packages_add_up_and_their_parts_do_not(tmp_path: Path) -> None:
    for package in (0, 1):
        rapl(tmp_path, package, "1000")
    meter = Meter(str(tmp_path))
    meter.read(0.0)
    rapl(tmp_path, 0, "3001000")
    rapl(tmp_path, 1, "1001000")
    meter.read(2.0)
    assert (meter.result()["watts"], meter.result()["rail"]) == (2.0, "package-0 + package-1")
    assert Counter("core", f"{RAPL}:0/energy_uj", 262_143_328_850) not in meter._counters


def test_a_counter_that_may_not_be_read_is_said_to_be(tmp_path: Path) -> None:
    rapl(tmp_path, 0, "")  # as an unreadable one: no number
    meter = Meter(str(tmp_path))
    assert "only root may read" in str(meter.result()["power_reason"])
    assert f"/{RAPL}/energy_uj" in str(meter.result()["power_reason"])


# Throttling and temperature, while something runs


def watched(root: Path) -> Watch:
    return Watch(str(root), period=0.005)


def wait(watch: Watch) -> None:
    """Until it has read power six more times, and so temperatures at least once."""
    enough, deadline = watch.report()["readings"] + 6, time.monotonic() + 20
    while watch.report()["readings"] < enough:
        assert time.monotonic() < deadline, "it reads no more"
        time.sleep(0.005)


def meanwhile(watch: Watch, root: Path, files: dict[str, str]) -> None:
    """Something that holds for a while, and then no more."""
    before = {name: (root / name).read_text() for name in files}
    write(root, files)
    wait(watch)
    write(root, before)


@pytest.mark.parametrize("jetson", JETSONS, ids=lambda jetson: jetson.profile)
def test_a_quiet_board_is_reported_whole(tmp_path: Path, jetson: Board) -> None:
    with watched(write(tmp_path, jetson.files)) as watch:
        wait(watch)
    report = watch.report()
    assert json.loads(json.dumps(report)) == report
    assert report["watts"] == pytest.approx(jetson.watts, rel=1e-3)
    assert report["energy_mj"] == pytest.approx(jetson.watts * report["seconds"] * 1e3, rel=0.03)  # seconds are in ms
    assert report["throttled"] is (False if jetson is AGX_ORIN else None)
    degrees = report["temperatures_c"]
    assert degrees["before"] == degrees["after"] == degrees["max"]
    assert report["readings"] >= 3


SIGNS: list[tuple[str, dict[str, str], dict[str, str], str]] = [
    ("pi now", {GET_THROTTLED: "0\n"}, {GET_THROTTLED: "50005\n"}, "throttled"),
    ("pi heat", {GET_THROTTLED: "50000\n"}, {GET_THROTTLED: "50008\n"}, "soft temperature limit"),
    ("orin heat", AGX_ORIN.files, {"sys/class/thermal/cooling_device3/cur_state": "1\n"}, "cooling by gpu-throttle-alert"),
    ("gpu clock", AGX_ORIN.files, {"sys/class/devfreq/17000000.gpu/cur_freq": "1020000000\n"}, "17000000.gpu/cur_freq below its locked"),
    (
        "cpu clock",
        AGX_ORIN.files,
        {"sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "1200000\n"},
        "policy4/scaling_cur_freq below",
    ),
]


@pytest.mark.parametrize(("files", "change", "sign"), [row[1:] for row in SIGNS], ids=[row[0] for row in SIGNS])
def test_what_held_for_a_moment_only_is_seen(tmp_path: Path, files: dict[str, str], change: dict[str, str], sign: str) -> None:
    write(tmp_path, files)
    with watched(tmp_path) as watch:
        meanwhile(watch, tmp_path, change)
    assert watch.report()["throttled"] is True
    assert sign in " ".join(watch.report()["throttling"])


def test_what_was_before_is_not_what_happened_now(tmp_path: Path) -> None:
    with watched(write(tmp_path, {GET_THROTTLED: "50000\n"})) as watch:
        wait(watch)
    assert (watch.report()["throttled"], watch.report()["throttling"]) == (False, [])
    with watched(tmp_path) as watch:
        write(tmp_path, {GET_THROTTLED: "d0000\n"})  # it happened between two readings: only the record of it is left
    assert watch.report()["throttling"] == ["soft temperature limit"]


@pytest.mark.parametrize(
    ("counter", "cause"),
    [
        ("sys/class/hwmon/hwmon5/oc3_event_cnt", "over-current or under-voltage"),
        ("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "heat"),
    ],
)
def test_events_that_the_hardware_counts(tmp_path: Path, counter: str, cause: str) -> None:
    with watched(write(tmp_path, {counter: "37\n"})) as watch:
        write(tmp_path, {counter: "40\n"})
    assert watch.report()["throttling"] == [f"{cause}: /{counter} rose by 3"]


def test_a_pc_that_counts_is_not_asked_for_its_clocks(tmp_path: Path) -> None:
    count = {"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "0\n"}
    with watched(write(tmp_path, count | cores(2_000_000, 2_000_000, 1_000_000))) as watch:
        wait(watch)
    assert (watch.report()["throttled"], watch.report()["throttling"]) == (False, [])


def test_a_fan_and_a_clock_that_rests_are_no_throttling(tmp_path: Path) -> None:
    files = clock("17000000.gpu", 306_000_000, 1_020_000_000, 306_000_000) | cores(729_600, 1_510_400, 729_600)
    files |= {"sys/class/thermal/cooling_device0/type": "pwm-fan\n", "sys/class/thermal/cooling_device0/cur_state": "3\n"}
    with watched(write(tmp_path, files)) as watch:
        wait(watch)
    assert (watch.report()["throttled"], watch.report()["throttling"]) == (None, [])
    assert watch.report()["gpu_mhz"] == {"lowest": 306.0, "highest": 306.0}
    write(tmp_path, clock("17000000.gpu", 1_020_000_000, 1_020_000_000, 0))  # locked, and switched off for want of work
    with watched(tmp_path) as watch:
        wait(watch)
    assert (watch.report()["throttled"], watch.report()["gpu_mhz"]) == (False, None)


def test_the_highest_temperature_is_kept(tmp_path: Path) -> None:
    with watched(write(tmp_path, zones(gpu_thermal=40, cpu_thermal=38))) as watch:
        meanwhile(watch, tmp_path, zones(gpu_thermal=71.5, cpu_thermal=39))
        write(tmp_path, zones(gpu_thermal=45, cpu_thermal=38))
    degrees = watch.report()["temperatures_c"]
    assert (degrees["before"]["gpu-thermal"], degrees["after"]["gpu-thermal"], degrees["max"]["gpu-thermal"]) == (40, 45, 71.5)


def test_the_highest_temperature_may_be_the_first(tmp_path: Path) -> None:
    with watched(write(tmp_path, zones(gpu_thermal=60))) as watch:
        write(tmp_path, zones(gpu_thermal=45))
        wait(watch)
    assert watch.report()["temperatures_c"]["max"] == {"gpu-thermal": 60.0}


def test_an_error_in_what_is_watched_passes_through(tmp_path: Path) -> None:
    watch = Watch(str(tmp_path), period=0.005)
    with pytest.raises(ZeroDivisionError), watch:
        _ = 1 // 0
    assert not watch._thread.is_alive()
    assert watch.report()["throttled"] is None


def test_watching_takes_next_to_nothing(tmp_path: Path) -> None:
    root, before = write(tmp_path, AGX_ORIN.files), time.process_time()
    with Watch(str(root)) as watch:
        time.sleep(1.0)
    spent = time.process_time() - before
    assert watch.report()["readings"] >= 4
    assert spent < 0.05, "a twentieth of a core, its start and end included"
