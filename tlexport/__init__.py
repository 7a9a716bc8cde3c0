"""tlexport: fine-tune a small image classifier and export it, quantized and proven, to an edge device."""

__version__ = "0.1.0"
