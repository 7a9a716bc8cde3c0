"""ONNX files: checks before a runtime opens them, and copies of graphs."""
