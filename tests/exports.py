"""Exports shared by several test files, and a way to run a graph in ONNX Runtime without a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from tlexport import ports
from tlexport.api.export import export
from tlexport.bundle.manifest import Manifest
from tlexport.checkpoint import read_checkpoint, read_dataset
from tlexport.dataset import Part
from tlexport.device.inputs.image import prepare
from tlexport.hardware.target import resolve
from tlexport.plan import Constraints
from tlexport.runtimes.onnxruntime import ort  # through tlexport's module, which suppresses the output of its import


def _kind(name: str) -> str:
    """What an export depends on in a profile: profiles that are alike in it get the same models."""
    asked = resolve(name).profile.model_dump(include={"runtime", "device", "opset", "input_dtype", "precisions", "int8"})
    return str({key: value["value"] if isinstance(value, dict) and "value" in value else value for key, value in asked.items()})


def _kinds() -> list[str]:
    """One profile of each kind, such as extends no other where there is one."""
    names = [path.stem for path in (Path(__file__).parent.parent / "profiles").glob("*.toml")]
    return sorted({_kind(name): name for name in sorted(names, key=lambda name: (-len(resolve(name).file.chain()), name))}.values())


PROFILES = _kinds()


class Notes(ports.Silent):
    """Records the notes for the user."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@dataclass(frozen=True)
class Made:
    """A bundle, and the notes of its export."""

    path: Path
    manifest: Manifest
    notes: tuple[str, ...]

    def graph(self, precision: str) -> onnx.ModelProto:
        [model] = [m for m in self.manifest.models if m.artifact.precision == precision]
        return onnx.load(self.path / model.file)


@cache
def exported(checkpoint: Path, profile: str) -> Made:
    """The bundle of a checkpoint for a profile, made once in a session, where pytest keeps its temporary files. Read only."""
    notes = Notes()
    out = checkpoint.parent.parent / "exports" / profile
    manifest = export(checkpoint, resolve(profile), Constraints(), out, progress=notes).manifest
    return Made(out, manifest, tuple(notes.texts))


def images(checkpoint: Path, part: Part) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Pixels uint8 (image, height, width, channel) and labels of a part of the checkpoint's data."""
    dataset, contract = read_dataset(checkpoint), read_checkpoint(checkpoint).preprocess.model_dump()
    samples = dataset.part(part)
    return np.stack([prepare(dataset.file(sample), contract) for sample in samples]), [sample.label for sample in samples]


def run(model: onnx.ModelProto, feed: npt.NDArray[np.generic], *, as_written: bool = False) -> npt.NDArray[np.float32]:
    """The first output of a graph for its first input, on the CPU. ``as_written``: Q/DQ pairs in float, not fused."""
    options = ort.SessionOptions()
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    output: npt.NDArray[np.float32] = session.run(None, {name: feed.astype(dtype)})[0]
    return output


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, under its relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
