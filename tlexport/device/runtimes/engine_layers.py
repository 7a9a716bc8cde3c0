"""The layers of an engine, from the JSON of TensorRT's inspector. Python 3.6 syntax.

TensorRT 10 and older write format and type of a tensor in one text; 11 separates them, and lists the engine's inputs and outputs as
objects instead of names (NVIDIA's guide "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x").
"""

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DeviceError

if TYPE_CHECKING:
    from typing import Any

# types as written by TensorRT 11, and by older versions within a text: "Channel major FP16 format where channel % 4 == 0"
_TYPES = (
    ("float32", r"\b(FP32|Float)\b"),
    ("float16", r"\b(FP16|Half)\b"),
    ("bfloat16", r"\b(BF16|BFloat16)\b"),
    ("int8", r"\bInt8\b"),
    ("uint8", r"\bUInt8\b"),
    ("int32", r"\bInt32\b"),
    ("int64", r"\bInt64\b"),
    ("bool", r"\bBool\b"),
    ("float8", r"\b(FP8|Float8)\b"),
)
_TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")  # the first of these keys that exists holds the type


class EngineLayer(NamedTuple):
    """One layer of an engine, which may be several nodes of the graph."""

    name: str
    kind: str  # TensorRT's layer type: "CaskConvolution", "Reformat", ...; empty if unknown
    inputs: "tuple[str, ...]"  # types of its input tensors: "int8", "float16", ...; TensorRT's own text for other types
    outputs: "tuple[str, ...]"


class EngineLayers(NamedTuple):
    """An engine's layers, inputs and outputs."""

    layers: "tuple[EngineLayer, ...]"
    tensors: "tuple[str, ...]"  # names of inputs and outputs


def read_layers(text: str) -> EngineLayers:
    """Parse the JSON of ``EngineInspector.get_engine_information``.

    Raises:
        DeviceError: not JSON, or an unknown structure.
    """
    try:
        found = json.loads(text)
        layers = tuple(_layer(item) for item in found["Layers"])
        border = found.get("I/O Tensors", found.get("Bindings", ()))
        return EngineLayers(layers, tuple(str(item["Name"] if isinstance(item, dict) else item) for item in border))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeviceError(f"TensorRT's engine information is not as expected: {type(error).__name__} {error}: {text[:80]!r}") from None


def _layer(item: "Any") -> EngineLayer:
    if isinstance(item, str):  # an engine that was built without layer details
        return EngineLayer(item, "", (), ())
    kind = item.get("LayerType", "")
    return EngineLayer(str(item["Name"]), str(kind), _types(item.get("Inputs", ())), _types(item.get("Outputs", ())))


def _types(tensors: "Any") -> "tuple[str, ...]":
    return tuple(_type(next((str(tensor[key]) for key in _TYPE_KEYS if key in tensor), "")) for tensor in tensors)


def _type(text: str) -> str:
    return next((name for name, pattern in _TYPES if re.search(pattern, text, re.IGNORECASE)), text)
