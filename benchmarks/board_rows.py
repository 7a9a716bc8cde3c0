"""Selection of published latencies for benchmarks/fit_boards.py: the rows used, and the reasons for excluding others."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from board_model import Row, Unit

from tlexport.artifact import Precision

SAME_BOARD = {"RK3588 (Rock 5B)": "RK3588", "RK3588S (Orange Pi 5)": "RK3588"}  # one SoC; a profile cannot distinguish them
# Boards with rows of other runtimes, for the error of ncnn's figures as a proxy -> the board's name in ncnn's rows.
OTHERS = ("ONNX Runtime", "TFLite", "ExecuTorch XNNPACK", "XNNPACK end2end bench multi-thread", "OpenCV DNN", "OpenCV DNN OPENCV/CPU")
OTHER_NAMES = {
    "Raspberry Pi 4B": "Raspberry Pi 4B (1.8GHz)",
    "Raspberry Pi 4 (arm64)": "Raspberry Pi 4B (1.8GHz)",
    "Raspberry Pi 5": "Raspberry Pi 5",
    "Khadas VIM3": "Khadas VIM3 A311D",
    "Khadas VIM3 A311D": "Khadas VIM3 A311D",
    "Jetson Nano B01": "Jetson Nano",
}
PRECISIONS: dict[str, Precision] = {
    **{"fp32": "fp32", "fp16": "fp16", "int8": "int8"},
    **{"fp32 compute": "fp32", "fp16 arith": "fp16", "fp16 storage/arith where supported": "fp16"},
}

# Published name of a network -> name used here.
SAME = {
    "inception_v1": "caffe_googlenet",
    "mobilenet_v1_0.5": "mobilenet_v1_050",
    "mobilenet_v1_0.25": "mobilenet_v1_025",
    "resnet_v1_50": "resnet50",
    "resnet_v1_101": "resnet101",
}
CAFFE = {"alexnet": "caffe_alexnet", "googlenet": "caffe_googlenet", "resnet50": "caffe_resnet50"}  # as in ncnn's benchmark
UNKNOWN = ("inception_v4",)
SIDES = {"caffe_alexnet": 227, "mobilenet_v1_050": 160, "mobilenet_v1_025": 128}  # of files without a size in their name
ARCHITECTURES = ("vgg", "resnet", "densenet", "squeezenet", "mobilenet", "mnasnet", "shufflenet", "efficientnet")


def read_rows(path: Path) -> tuple[list[Row], list[Row], Counter[str]]:
    """Rows of ncnn and TensorRT, rows of other runtimes on the same boards (4 threads), and the reasons for excluded rows."""
    rows, others, aside = [], [], Counter[str]()
    with path.open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            runtime = record["runtime"]
            if runtime in OTHERS and record["device"] in OTHER_NAMES:
                unit = Unit(OTHER_NAMES[record["device"]], "ncnn", PRECISIONS[record["precision"]], 4)
                if (row := _row(record, unit)) is not None:
                    others.append(row)
            elif runtime.startswith("ncnn ") or "TensorRT" in runtime:
                row = _row(record, _unit(record))
                if (reason := _aside(record, row)) or row is None:
                    aside[reason] += 1
                else:
                    rows.append(row)
    return rows, others, aside


def _aside(record: Mapping[str, str], row: Row | None) -> str:
    """Why a row of ncnn or TensorRT is excluded; empty if it is used."""
    if not record["latency_ms"]:
        return "without a figure"
    if row is None:
        return f"{record['network']}, which is not built here"
    if record["device"] == "NVIDIA L4":
        return "NVIDIA L4, a server's card"
    return "a submission of MLPerf in a power mode of its own" if "MaxQ" in record["power_mode"] else ""


def _unit(record: Mapping[str, str]) -> Unit:
    runtime = record["runtime"]
    device = SAME_BOARD.get(record["device"], record["device"])
    precision = PRECISIONS[record["precision"]]
    if (threads := re.fullmatch(r"ncnn CPU (\d+)thr", runtime)) is not None:
        little = "little" if "powersave=1" in record["notes"] else ""
        return Unit(device, "ncnn", precision, int(threads[1]), little)
    if runtime == "ncnn Vulkan":
        return Unit(device, "ncnn-vulkan", precision, None)
    return Unit(device, "tensorrt", precision, None, tuned="MLPerf" in runtime)


def _row(record: Mapping[str, str], unit: Unit) -> Row | None:
    file = file_of(record["network"], int(record["resolution"]), unit.runtime)
    if file is None or not record["latency_ms"]:
        return None
    return Row(unit, file, float(record["latency_ms"]), record["source"].split(" line")[0].split(" (")[0])


def file_of(network: str, side: int, runtime: str) -> str | None:
    """Name of a published network's ONNX file without its suffix; None if there is none."""
    if network in UNKNOWN:
        return None
    name = SAME.get(network, network)
    if runtime.startswith("ncnn"):
        name = CAFFE.get(name, name)
    name = name.removesuffix("_bn")  # folded into the convolutions: the same layers
    return name if side == SIDES.get(name, 224) else f"{name}-{side}"


def origin_of(file: str) -> str:
    """The network that a file is a variant of: rows of the same network are left out together."""
    name = file.split("-")[0].removeprefix("caffe_")
    return "mobilenet_v1" if name.startswith("mobilenet_v1_") else name


def relatives_of(file: str) -> str:
    """The architecture of a file, regardless of depth, width or version; MnasNet counts as MobileNet."""
    origin = origin_of(file)
    kind = next((kind for kind in ARCHITECTURES if origin.startswith(kind)), origin)
    return "mobilenet" if kind == "mnasnet" else kind
