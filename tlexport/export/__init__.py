"""From a torch network to ONNX graphs, and the checks on them."""
