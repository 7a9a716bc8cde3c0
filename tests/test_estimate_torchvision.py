"""MACs and parameters of every torchvision classifier, compared with torchvision's figures."""

from __future__ import annotations

import io
from collections.abc import Iterator

import onnx
import pytest
import torch
from torch import nn
from torchvision import models

from tlexport.estimate.cost import cost_of

NOT_EXPORTED = {"inception_v3": "AuxLogits"}  # included in the published parameters, but used in training only


@pytest.fixture(scope="module")
def uninitialized() -> Iterator[None]:
    """Weights are not initialised: the tests do not depend on them, and drawing billions takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        for name in dir(nn.init):
            if name.endswith("_") and not name.startswith("_"):
                patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        yield


def network(name: str) -> nn.Module:
    """Untrained; each tensor differs from the others, since the exporter writes equal ones once."""
    plain = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net: nn.Module = models.get_model(name, weights=None, **plain).eval()
    for index, tensor in enumerate([*net.parameters(), *net.buffers()]):
        if tensor.is_floating_point() and tensor.numel() > 1:
            tensor.detach().view(-1)[0] = index
    return net


def shell(net: nn.Module, side: int) -> onnx.ModelProto:
    """The network as ONNX, its weights without their values. The exporter that traces takes seconds where the other takes a minute."""
    buffer = io.BytesIO()
    image = (torch.zeros(1, 3, side, side),)
    keep = torch.onnx.TrainingMode.PRESERVE  # or else normalisation would be folded, and its parameters not be counted
    torch.onnx.export(net, image, buffer, dynamo=False, export_params=False, do_constant_folding=False, opset_version=17, training=keep)
    model = onnx.load_from_string(buffer.getvalue())
    for weight in list(model.graph.input)[1:]:
        kind = weight.type.tensor_type
        dims = [axis.dim_value for axis in kind.shape.dim]
        model.graph.initializer.append(onnx.TensorProto(name=weight.name, data_type=kind.elem_type, dims=dims))
        model.graph.input.remove(weight)
    return model


@pytest.mark.slow  # tracing all of torchvision's classifiers takes minutes
@pytest.mark.filterwarnings("ignore")  # the tracing exporter is deprecated and emits many warnings
@pytest.mark.usefixtures("uninitialized")
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_macs_and_parameters_are_torchvisions_own(name: str) -> None:
    weights = min(models.get_model_weights(name), key=lambda entry: entry.meta["_ops"])
    net = network(name)
    cost = cost_of(shell(net, int(weights.transforms().crop_size[0])))
    aux = sum(p.numel() for p in net.get_submodule(NOT_EXPORTED[name]).parameters()) if name in NOT_EXPORTED else 0
    # Swin v2's coordinate tables are graph constants like weights; values computed from them once do not add to the cost of a run
    swin = name.startswith("swin_v2")
    assert cost.parameters + aux == pytest.approx(weights.meta["num_params"], rel=1e-3 if swin else 0)
    assert cost.macs / 1e9 == pytest.approx(weights.meta["_ops"], rel=4e-3 if swin else 0, abs=1e-3)
    assert cost.unknown == ()
