"""What a bundle asks of an engine build. The device chooses the builder options for its own TensorRT (device/runtimes/build_options.py)."""

from __future__ import annotations

from tlexport.artifact import Precision
from tlexport.bundle.manifest import EngineRecipe
from tlexport.contract import TensorSpec
from tlexport.device.errors import DeviceError
from tlexport.device.runtimes.build_options import parse_version, precision_flags
from tlexport.errors import Unsupported
from tlexport.hardware.profile import Profile


def engine_recipe(profile: Profile, precision: Precision, pixels: TensorSpec) -> EngineRecipe:
    """The recipe of an engine for one image at a time.

    Args:
        profile: the target; its TensorRT must be able to build the precision.
        precision: of the model.
        pixels: its input, (batch, height, width, channel).

    Raises:
        Unsupported: the profile names no TensorRT version or no workspace, or that TensorRT cannot build the precision.
    """
    version = profile.software.tensorrt
    if version is None or profile.workspace_mb is None:
        missing = "[software] tensorrt" if version is None else "workspace_mb"
        raise Unsupported(f"the profile {profile.name} names no {missing}, and an engine needs it", f"add {missing} to the profile")
    opset = profile.opset.value
    try:
        precision_flags(parse_version(version.value), precision, opset)
    except DeviceError as error:
        raise Unsupported(f"the profile {profile.name}: {error.message}", error.hint) from None
    _, height, width, channels = (1 if isinstance(axis, str) else axis for axis in pixels.shape)
    shape = (1, height, width, channels)
    return EngineRecipe(input=pixels.name, shape=shape, workspace_mb=profile.workspace_mb.value, precision=precision, opset=opset)
