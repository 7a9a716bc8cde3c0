"""How an engine is built on the device: the command line of TensorRT's own trtexec, for each of its major versions."""

from __future__ import annotations

from pathlib import PurePosixPath

from tlexport.artifact import Precision
from tlexport.errors import Unsupported
from tlexport.ports import TYPED_SCALES
from tlexport.profile import Profile

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where JetPack puts it


def trtexec_command(profile: Profile, file: str, precision: Precision, size: int) -> tuple[str, ...]:
    """Arguments that build ``file`` into an engine beside it, for batch 1 and the TensorRT version of the profile.

    TensorRT 8 takes the precisions as flags that allow them; 10 can take the types from the graph (``--stronglyTyped``), but
    an INT8 graph with FP32 scales, as those below opset 19 are, would then run its other layers in FP32, so it is built with flags
    there too; from 11 on the graph's types are all there is, and the flags are gone. (trtexec's own option lists, tags 8.2.1 to 11.1.)

    Raises:
        Unsupported: the profile names no TensorRT version.
    """
    version = profile.software.tensorrt
    if version is None or profile.workspace_mb is None:
        raise Unsupported(f"the profile {profile.name} names no TensorRT version", "add [software] tensorrt to the profile")
    major, minor = (int(part) for part in version.value.split(".")[:2])
    shape = f"image:1x{size}x{size}x3"
    command = [
        TRTEXEC,
        f"--onnx={file}",
        f"--saveEngine={PurePosixPath(file).with_suffix('.engine')}",
        f"--minShapes={shape}",
        f"--optShapes={shape}",
        f"--maxShapes={shape}",
    ]
    workspace = profile.workspace_mb.value
    command.append(f"--workspace={workspace}" if (major, minor) < (8, 5) else f"--memPoolSize=workspace:{workspace}")
    if precision == "int8" and (major < 10 or (major == 10 and profile.opset.value < TYPED_SCALES)):
        command += ["--int8", "--fp16"]
    elif major < 10 and precision == "fp16":
        command.append("--fp16")
    elif major == 10:
        command.append("--stronglyTyped")
    return tuple(command)


def build_script(commands: dict[Precision, tuple[str, ...]], chosen: Precision) -> str:
    """A shell script that builds the engine of one precision, the chosen one if none is named. File names are our own."""
    cases = "".join(f"  {precision}) set -- {' '.join(arguments[1:])} ;;\n" for precision, arguments in commands.items())
    return (
        "#!/bin/sh\n"
        f"# Builds a TensorRT engine on this device, with this device's TensorRT: sh build_engine.sh [{'|'.join(commands)}]\n"
        "# An engine belongs to the TensorRT version and the GPU that built it, so none is shipped.\n"
        "set -eu\n"
        'cd "$(dirname "$0")"\n'
        f'case "${{1:-{chosen}}}" in\n{cases}'
        f'  *) echo "unknown precision: $1; known: {" ".join(commands)}" >&2; exit 2 ;;\nesac\n'
        f'exec "${{TRTEXEC:-{TRTEXEC}}}" "$@"\n'
    )
