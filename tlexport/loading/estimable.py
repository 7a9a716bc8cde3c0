"""From WHAT to a model that can be estimated: its graph, its precision, and the cost of its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tlexport.artifact import Precision
from tlexport.checkpoint import Checkpoint
from tlexport.errors import UsageError
from tlexport.hardware.profile import Profile
from tlexport.loading.model import LoadedModel, load
from tlexport.onnx_model.file import is_onnx_name

if TYPE_CHECKING:
    import onnx

    from tlexport.estimate.costed import Costs, Graph
    from tlexport.estimate.process import Counted

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Estimable:
    """A model that can be estimated."""

    what: str
    precision: Precision
    sha256: str  # of the file; of a checkpoint, of its weights
    graph_for: Callable[[Profile], Graph | Costs]
    note: str = ""  # a note for the user about the model
    batch: int = 1  # images in one run


def find_graph(what: Path | LoadedModel, precision: Precision | None = None, shapes: Shapes | None = None) -> Estimable:
    """Find the graph of WHAT.

    Args:
        what: a checkpoint, which is exported to FP32 in memory; a bundle; or any .onnx file.
        precision: which of a bundle's models; None: the chosen one.
        shapes: shape of each input that has free axes other than the first.

    Raises:
        InvalidFile: missing, none of these, or an unreadable graph.
        VerificationFailed: the model file of a bundle was changed.
        UsageError: it has no such precision or shape.
        Unsupported: estimates do not cover the type of its weights.
    """
    path = what.path if isinstance(what, LoadedModel) else what
    if is_onnx_name(path) and path.is_file():
        return _file(path, precision, shapes)
    loaded = load(what)
    model = loaded.runnable(precision=precision)
    if loaded.checkpoint is not None:
        return _checkpoint(loaded.path, loaded.checkpoint, shapes)
    found = _counted(model.path, shapes)
    return Estimable(str(model.path), model.precision, model.sha256, lambda profile: found.costs)


def _counted(path: Path, shapes: Shapes | None) -> Counted:
    from tlexport.estimate.process import count

    return count(path, {name: tuple(shape) for name, shape in (shapes or {}).items()})


def _file(path: Path, precision: Precision | None, shapes: Shapes | None) -> Estimable:
    found = _counted(path, shapes)
    if precision not in (None, found.precision):
        raise UsageError(f"{path} is {found.precision}; {precision} was asked for", "leave out --precision")
    return Estimable(str(path), found.precision, found.sha256, lambda profile: found.costs, found.note, found.batch)


def _checkpoint(path: Path, checkpoint: Checkpoint, shapes: Shapes | None) -> Estimable:
    """A checkpoint as exported in FP32 for each profile. Profiles with the same input dtype and opset share a graph."""
    exported: dict[tuple[str, int], onnx.ModelProto] = {}
    graphs: dict[tuple[str, int], Graph] = {}

    def graph_for(profile: Profile) -> Graph:
        from tlexport.estimate.costed import Graph
        from tlexport.estimate.graph import with_shapes
        from tlexport.export.rewrite import lower
        from tlexport.export.to_onnx import EXPORTER_OPSET, to_onnx
        from tlexport.network import load_network

        dtype, opset = profile.input_dtype.value, profile.opset.value
        if (dtype, opset) not in graphs:
            written = dtype, max(opset, EXPORTER_OPSET)
            if written not in exported:
                network = load_network(path, checkpoint)
                exported[written] = to_onnx(network, checkpoint.preprocess, dtype, written[1])
            model = lower(exported[written], opset)
            graphs[dtype, opset] = Graph(with_shapes(model, shapes or {}, str(path)), model.ByteSize())
        return graphs[dtype, opset]

    return Estimable(str(path), "fp32", checkpoint.weights_sha256, graph_for)
