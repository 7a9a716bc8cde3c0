"""Conversions by torch's exporter, kept for later exports of an equal network, since each takes seconds of every export."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest

from tlexport.contract import Preprocess
from tlexport.export import to_onnx as exporter
from tlexport.export.to_onnx import to_onnx
from tlexport.network import Network
from tlexport.optimize import candidates
from tlexport.storage.files import new_file

Convert = Callable[[Network, Preprocess, str, int], onnx.ModelProto]
USERS = (candidates, exporter)  # modules: as an attribute of the package, tlexport.export is the function


def keeping(folder: Path) -> Convert:
    """The exporter, which converts a network only if the folder holds no conversion of an equal one."""

    def convert(network: Network, preprocess: Preprocess, input_dtype: str, opset: int) -> onnx.ModelProto:
        digest = hashlib.sha256(f"{network} {preprocess.model_dump_json()} {input_dtype} {opset}".encode())
        for name, tensor in network.net.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        file = folder / f"{digest.hexdigest()}.onnx"
        if file.exists():
            return onnx.load(file)
        model = to_onnx(network, preprocess, input_dtype, opset)  # type: ignore[arg-type]  # a literal of the profile
        with new_file(file) as temporary:
            temporary.write_bytes(model.SerializeToString())
        return model

    return convert


@contextmanager
def conversions_by(convert: Convert) -> Iterator[None]:
    """Let exports in this process convert so; ``to_onnx`` converts each time."""
    with pytest.MonkeyPatch.context() as patch:
        for user in USERS:
            patch.setattr(user, "to_onnx", convert)
        yield
