"""Copies of the system files that identify boards, with contents published by their owners.

Sources: /etc/nv_tegra_release and package versions as in dusty-nv/jetson-containers l4t_version.py and in bug reports
(rbonghi/jetson_stats#672 and #779, NVIDIA/TensorRT#3912); device trees in NVIDIA/jetson-gpio gpio_pin_data.py; rails and thermal zones
in rbonghi/jetson_stats jtop/core and in NVIDIA's developer guides; power modes in the nvpmodel_*.conf of Jetson Linux.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below ``root``, and answer it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return root


def tree(model: str, *compatible: str) -> dict[str, str]:
    """The device tree's words, each with its NUL."""
    return {"proc/device-tree/model": f"{model}\0", "proc/device-tree/compatible": "".join(f"{name}\0" for name in compatible)}


def release(major: int, revision: str, chip: str = "generic") -> dict[str, str]:
    line = f"# R{major} (release), REVISION: {revision}, GCID: 12345678, BOARD: {chip}, EABI: aarch64, DATE: Tue Nov  5 07:46:14 UTC 2024\n"
    return {"etc/nv_tegra_release": line + "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"}


def packages(**versions: str) -> dict[str, str]:
    """dpkg's record, where ``cuda_cudart_10_2`` is cuda-cudart-10-2; with others before, between and after them, and one removed."""
    names = {"adduser": "3.116ubuntu1", **{name.replace("_", "-"): version for name, version in versions.items()}, "zlib1g": "1:1.2.11"}
    entries = [
        f"Package: {name}\nStatus: install ok installed\nPriority: standard\nArchitecture: arm64\nVersion: {version}\n"
        f"Depends: libc6 (>= 2.27)\nDescription: what it is\n more of it\n .\n Package: libnvinfer99\n"
        for name, version in names.items()
    ]
    removed = "Package: libnvinfer7\nStatus: deinstall ok config-files\nArchitecture: arm64\nVersion: 99.1.3-1+cuda10.2\n"
    return {"var/lib/dpkg/status": "\n".join([*entries[:1], removed, *entries[1:]])}


def power_modes(chosen: int | None, default: int, *names: str) -> dict[str, str]:
    """What nvpmodel keeps: its modes, and the number of the one that was chosen, if one was."""
    modes = "".join(
        f"< POWER_MODEL ID={number} NAME={name} >\nCPU_ONLINE CORE_0 1\nGPU MIN_FREQ 0\n\n" for number, name in enumerate(names)
    )
    head = "# FREQ_TABLE ...\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n\n"
    files = {"etc/nvpmodel.conf": f"{head}{modes}< PM_CONFIG DEFAULT={default} >\n"}
    return files | ({} if chosen is None else {"var/lib/nvpmodel/status": f"pmode:{chosen:04d} fmode:quiet"})


def zones(**celsius: float) -> dict[str, str]:
    files = {}
    for number, (name, value) in enumerate(celsius.items()):
        zone = f"sys/class/thermal/thermal_zone{number}"
        files |= {f"{zone}/type": name.replace("_", "-") + "\n", f"{zone}/temp": f"{value * 1000:.0f}\n"}
    return files


def clock(folder: str, low: int, high: int, now: int) -> dict[str, str]:
    """A device's clock in devfreq, Hz."""
    base = f"sys/class/devfreq/{folder}"
    return {f"{base}/min_freq": f"{low}\n", f"{base}/max_freq": f"{high}\n", f"{base}/cur_freq": f"{now}\n"}


def cores(low: int, high: int, now: int, governor: str = "schedutil", policies: int = 1) -> dict[str, str]:
    """The clocks of the CPU in cpufreq, kHz."""
    files = {}
    for number in range(policies):
        base = f"sys/devices/system/cpu/cpufreq/policy{4 * number}"
        files |= {f"{base}/scaling_{name}_freq": f"{value}\n" for name, value in (("min", low), ("max", high), ("cur", now))}
        files[f"{base}/scaling_governor"] = f"{governor}\n"
    return files


def meminfo(total_kib: int, available_kib: int, swap_kib: int = 0) -> dict[str, str]:
    lines = {
        "MemTotal": total_kib,
        "MemFree": available_kib // 2,
        "MemAvailable": available_kib,
        "SwapTotal": swap_kib,
        "SwapFree": swap_kib,
    }
    return {"proc/meminfo": "".join(f"{name + ':':<16}{value:>8} kB\n" for name, value in lines.items()) + "HugePages_Total:       0\n"}


def swaps(*entries: tuple[str, int, int]) -> dict[str, str]:
    """Name, size and use in KiB of each swap."""
    lines = [f"{name:<40}{'partition':<16}{size}\t{used}\t5\n" for name, size, used in entries]
    return {"proc/swaps": "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n" + "".join(lines)}


def iio(address: str, *labels_mw: tuple[str, int]) -> dict[str, str]:
    """An INA3221 as JetPack 4 shows it: milliwatts."""
    base, files = f"sys/bus/i2c/drivers/ina3221x/{address}/iio:device0", {}
    for number, (label, milliwatts) in enumerate(labels_mw):
        files |= {f"{base}/rail_name_{number}": f"{label}\n", f"{base}/in_power{number}_input": f"{milliwatts}\n"}
    return files


def hwmon(number: int, *channels: tuple[str, int, int]) -> dict[str, str]:
    """An INA3221 as later ones show it: label, millivolts, milliamperes; the sum of all channels as the seventh."""
    base = f"sys/class/hwmon/hwmon{number}"
    files = {f"{base}/name": "ina3221\n", f"{base}/in7_label": "sum of shunt voltages\n", f"{base}/in7_input": "1\n"}
    for channel, (label, millivolts, milliamperes) in enumerate(channels, 1):
        files |= {f"{base}/in{channel}_label": f"{label}\n", f"{base}/in{channel}_input": f"{millivolts}\n"}
        files[f"{base}/curr{channel}_input"] = f"{milliamperes}\n"
    return files


@dataclass(frozen=True)
class Board:
    """A board's files, and what is to be read out of them."""

    profile: str
    files: dict[str, str]
    told: dict[str, object]
    watts: float  # contents of its sensor files
    rail: str


NANO = Board(
    "jetson-nano",
    tree("NVIDIA Jetson Nano Developer Kit", "nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano", "nvidia,tegra210")
    | release(32, "7.6", "t210ref")
    | packages(cuda_cudart_10_2="10.2.300-1", libnvinfer8="8.2.1-1+cuda10.2", libnvinfer_dev="8.2.1-1+cuda10.2", nvidia_jetpack="4.6.6-b24")
    | power_modes(0, 0, "MAXN", "5W")
    | zones(AO_therm=41.5, CPU_therm=37, GPU_therm=36.5, PLL_therm=35.5, PMIC_Die=100, thermal_fan_est=36.75)
    | clock("57000000.gpu", 76_800_000, 921_600_000, 76_800_000)
    | clock("soc:some-bus", 1, 1, 1)
    | cores(102_000, 1_479_000, 1_479_000)
    | meminfo(4_059_312, 2_400_000, 2_029_648)
    | swaps(("/dev/zram0", 1_014_824, 0), ("/dev/zram1", 1_014_824, 0))
    | iio("6-0040", ("POM_5V_IN", 2875), ("POM_5V_GPU", 300), ("POM_5V_CPU", 900)),
    {
        **{"module": "NVIDIA Jetson Nano Developer Kit", "part": "p3448-0000", "soc": "tegra210", "l4t": "32.7.6", "jetpack": "4.6.6"},
        **{"jetpack_source": "/var/lib/dpkg/status", "cuda": "10.2.300", "tensorrt": "8.2.1", "power_mode": "MAXN", "power_mode_id": 0},
        **{"clocks_locked": False, "governor": "schedutil", "cpu_mhz": 1479.0, "gpu_mhz": 76.8, "gpu_max_mhz": 921.6, "emc_mhz": None},
        "temperatures_c": {"AO-therm": 41.5, "CPU-therm": 37.0, "GPU-therm": 36.5, "PLL-therm": 35.5, "thermal-fan-est": 36.8},
        **{"free_memory_bytes": 2_400_000 * 1024, "memory_bytes": 4_059_312 * 1024, "swap_bytes": 2_029_648 * 1024, "throttled": None},
    },
    2.875,
    "POM_5V_IN",
)
TX2 = Board(  # without JetPack's package: only what was needed of it is installed
    "jetson-tx2",
    tree("quill", "nvidia,p2597-0000+p3310-1000", "nvidia,quill", "nvidia,tegra186")
    | release(32, "7.1", "t186ref")
    | packages(cuda_cudart_10_2="10.2.300-1", libnvinfer8="8.2.1-1+cuda10.2")
    | power_modes(None, 3, "MAXN", "MAXQ", "MAXP_CORE_ALL", "MAXP_CORE_ARM", "MAXP_CORE_DENVER")
    | zones(BCPU_therm=44, MCPU_therm=44, GPU_therm=42.5, PMIC_Die=100)
    | clock("17000000.gp10b", 114_750_000, 1_300_500_000, 1_300_500_000)
    | cores(345_600, 2_035_200, 2_035_200, policies=2)
    | iio("0-0040", ("VDD_SYS_GPU", 900), ("VDD_SYS_SOC", 800), ("VDD_4V0_WIFI", 0))
    | iio("0-0041", ("VDD_IN", 5300), ("VDD_SYS_CPU", 600), ("VDD_SYS_DDR", 1000)),
    {
        **{"module": "quill", "part": "p3310-1000", "soc": "tegra186", "l4t": "32.7.1", "jetpack": "4.6.1", "tensorrt": "8.2.1"},
        **{"jetpack_source": "derived from L4T 32.7.1", "power_mode": "MAXP_CORE_ARM", "power_mode_id": 3, "clocks_locked": False},
        **{"gpu_max_mhz": 1300.5, "memory_bytes": None, "free_memory_bytes": None},
    },
    5.3,
    "VDD_IN",
)
XAVIER_NX = Board(
    "jetson-xavier-nx",
    tree("NVIDIA Jetson Xavier NX Developer Kit", "nvidia,p3509-0000+p3668-0000", "nvidia,tegra194")
    | release(35, "4.1", "t186ref")
    | packages(cuda_cudart_11_4="11.4.298-1", libnvinfer8="8.5.2-1+cuda11.4", nvidia_jetpack="5.1.2-b104")
    | power_modes(8, 3, *(f"MODE_{number}" for number in range(8)), "MODE_20W_6CORE")
    | zones(CPU_therm=39, GPU_therm=38.5, AUX_therm=38, AO_therm=38.5, PMIC_Die=50)
    | clock("17000000.gv11b", 114_750_000, 1_109_250_000, 1_109_250_000)
    | hwmon(3, ("VDD_IN", 4976, 1200), ("VDD_CPU_GPU_CV", 4976, 400), ("VDD_SOC", 4976, 300)),
    {
        **{"part": "p3668-0000", "soc": "tegra194", "l4t": "35.4.1", "jetpack": "5.1.2", "cuda": "11.4.298", "tensorrt": "8.5.2"},
        **{"power_mode": "MODE_20W_6CORE", "power_mode_id": 8, "governor": None},
    },
    5.9712,
    "VDD_IN",
)
AGX_ORIN = Board(  # after jetson_clocks
    "jetson-agx-orin",
    tree("NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234")
    | release(36, "5.0")
    | packages(cuda_cudart_12_6="12.6.68-1", libnvinfer10="10.3.0.30-1+cuda12.5", nvidia_jetpack="6.2.2+b24")
    | power_modes(0, 2, "MAXN", "MODE_15W", "MODE_30W", "MODE_50W")
    | zones(cpu_thermal=48.5, tboard_thermal=38, gpu_thermal=45, tj_thermal=48.5, cv0_thermal=-256)
    | clock("17000000.gpu", 1_300_500_000, 1_300_500_000, 1_294_000_000)
    | cores(2_201_600, 2_201_600, 2_201_600, "performance", policies=3)
    | hwmon(3, ("VDD_GPU_SOC", 20_000, 300), ("VDD_CPU_CV", 20_000, 200), ("VIN_SYS_5V0", 5000, 900))
    | hwmon(4, ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 100), ("NC", 0, 0))
    | {"sys/kernel/debug/bpmp/debug/clk/emc/rate": "3199000000\n"}
    | {f"sys/class/hwmon/hwmon5/oc{number}_event_cnt": "37\n" for number in (1, 2, 3)}
    | {"sys/class/thermal/cooling_device3/type": "gpu-throttle-alert\n", "sys/class/thermal/cooling_device3/cur_state": "0\n"}
    | {"sys/class/thermal/cooling_device0/type": "pwm-fan\n", "sys/class/thermal/cooling_device0/cur_state": "2\n"},
    {
        **{"part": "p3701-0005", "soc": "tegra234", "l4t": "36.5.0", "jetpack": "6.2.2", "cuda": "12.6.68", "tensorrt": "10.3.0.30"},
        **{"power_mode": "MAXN", "clocks_locked": True, "governor": "performance", "gpu_mhz": 1294.0, "emc_mhz": 3199.0},
        **{"cpu_mhz": 2201.6, "cpu_max_mhz": 2201.6},
        "temperatures_c": {"cpu-thermal": 48.5, "tboard-thermal": 38.0, "gpu-thermal": 45.0, "tj-thermal": 48.5},
    },
    14.5,
    "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0",
)
ORIN_NANO = Board(  # the runtime container's case: no record of packages
    "jetson-orin-nano",
    tree(
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        *("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
    )
    | release(36, "4.7")
    | power_modes(2, 1, "15W", "25W", "MAXN_SUPER")
    | zones(cpu_thermal=50.0)
    | hwmon(1, ("VDD_IN", 5000, 1000), ("VDD_CPU_GPU_CV", 5000, 200), ("VDD_SOC", 5000, 300)),
    {
        **{"part": "p3767-0005", "soc": "tegra234", "l4t": "36.4.7", "jetpack": "6.2.1", "jetpack_source": "derived from L4T 36.4.7"},
        **{"tensorrt": "10.3.0", "tensorrt_source": "derived from L4T 36.4.7", "cuda": None},
        **{"power_mode": "MAXN_SUPER", "clocks_locked": None},
    },
    5.0,
    "VDD_IN",
)
THOR = Board(
    "jetson-agx-thor",
    tree("NVIDIA Jetson AGX Thor Developer Kit", "nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264")
    | release(39, "2.0")
    | packages(cuda_cudart_13_2="13.2.75-1", libnvinfer10="10.16.2.10-1+cuda13.2", nvidia_jetpack="7.2-b187")
    | power_modes(0, 1, "MAXN", "120W")
    | zones(cpu_thermal=41, gpu_thermal=40)
    | clock("gpu-nvd-0", 315_000_000, 1_692_000_000, 315_000_000)
    | clock("gpu-gpc-0", 315_000_000, 1_575_000_000, 0)
    | clock("bwmgr", 204_000_000, 4_266_000_000, 4_266_000_000)
    | hwmon(2, ("VDD_GPU", 12_000, 500), ("VDD_CPU_SOC_MSS", 12_000, 700), ("VIN_SYS_5V0", 5000, 800))
    | {"sys/class/hwmon/hwmon1/name": "ina238\n", "sys/class/hwmon/hwmon1/power1_input": "31500000\n"},
    {
        **{"part": "p3834-0008", "soc": "tegra264", "l4t": "39.2.0", "jetpack": "7.2", "tensorrt": "10.16.2.10", "power_mode": "MAXN"},
        **{"gpu_mhz": 0.0, "gpu_max_mhz": 1575.0, "emc_mhz": 4266.0},
    },
    31.5,
    "board input (INA238)",
)
JETSONS = (NANO, TX2, XAVIER_NX, AGX_ORIN, ORIN_NANO, THOR)
