"""Pretrained weights that come with the package: ``VARIANT.safetensors``, and ``VARIANT.json`` with their licence and training data."""

from pathlib import Path

EMBEDDED = Path(__file__).parent
