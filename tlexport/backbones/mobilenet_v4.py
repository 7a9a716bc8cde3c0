"""MobileNetV4 (Qin et al. 2024), the convolutional variants."""

from __future__ import annotations

from tlexport.backbones._stages import numbered
from tlexport.backbones._timm_efficientnet import replace_classifier, stages

__all__ = ["SOURCE", "VARIANTS", "replace_classifier", "stages"]

SOURCE = "timm"
VARIANTS = dict.fromkeys(("mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_conv_large"), numbered(5, "top"))
