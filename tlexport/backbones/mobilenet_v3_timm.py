"""MobileNetV3 (Howard et al. 2019) as built and trained by timm."""

from __future__ import annotations

from tlexport.backbones._stages import numbered
from tlexport.backbones._timm_efficientnet import replace_classifier, stages

__all__ = ["SOURCE", "VARIANTS", "replace_classifier", "stages"]

SOURCE = "timm"
VARIANTS = {"mobilenetv3_small_100": numbered(6, "top"), "mobilenetv3_large_100": numbered(7, "top")}
