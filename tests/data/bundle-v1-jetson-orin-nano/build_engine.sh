#!/bin/sh
# Builds a TensorRT engine on this device, with this device's TensorRT: sh build_engine.sh [fp32|fp16]
# An engine belongs to the TensorRT version and the GPU that built it, so none is shipped.
set -eu
cd "$(dirname "$0")"
case "${1:-fp32}" in
  fp32) set -- --onnx=model.fp32.onnx --saveEngine=model.fp32.engine --minShapes=image:1x8x8x3 --optShapes=image:1x8x8x3 --maxShapes=image:1x8x8x3 --memPoolSize=workspace:1024 --stronglyTyped ;;
  fp16) set -- --onnx=model.fp16.onnx --saveEngine=model.fp16.engine --minShapes=image:1x8x8x3 --optShapes=image:1x8x8x3 --maxShapes=image:1x8x8x3 --memPoolSize=workspace:1024 --stronglyTyped ;;
  *) echo "unknown precision: $1; known: fp32 fp16" >&2; exit 2 ;;
esac
exec "${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}" "$@"
