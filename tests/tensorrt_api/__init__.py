"""What stands in for TensorRT and CUDA where neither is: nothing here computes what they compute.

`cudart.c` is a CUDA runtime whose device memory is host memory and whose streams run late; `behaviour.py` a small `tensorrt` module
that builds plans of its own making and runs them on it; `strict.py` holds calls of it to the signatures of a real version, which
`bindings.py` reads from NVIDIA's wheels.
"""
