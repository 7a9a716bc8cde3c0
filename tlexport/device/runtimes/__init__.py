"""ONNX Runtime and TensorRT on the device."""
