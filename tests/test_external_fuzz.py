"""ONNX's test models and damaged copies of small models in `estimate` and `bench`: a figure or a message, nothing else."""

from __future__ import annotations

import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from estimates import network
from external_graphs import BODY, LOOP_CYCLE, X, function, parsed, recurrent
from external_models import ends

CHUNK = 100  # files for one process


def held(paths: list[Path]) -> Counter[str]:
    """How many ended with which exit code. Fails where a file ended in any other way."""
    counted: Counter[str] = Counter()
    for begin in range(0, len(paths), CHUNK):
        for path, end in ends(paths[begin : begin + CHUNK]):
            for command, answer in end.items():
                code, _, words = answer.partition(" ")
                assert code in ("0", "2", "4"), f"{path.name}, {command}: {answer}"
                assert code == "0" or words.partition(" | ")[0].strip(), f"{path.name}, {command}: no message"
                assert not re.search(r"::[\w~<>]+\(", words), f"{path.name}, {command}: a C++ signature in {words}"
                counted[f"{command} {code}"] += 1
    return counted


# --- ONNX's own models ------------------------------------------------------------------------------------------------------


def backend_models(folder: Path) -> list[Path]:
    """The models of ONNX's backend tests: those in files, and one for each operator and way to use it."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = list(collect_testcases(None))
    paths = sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("*.onnx"))
    for case in cases:
        paths.append(folder / f"{case.name}.onnx")
        paths[-1].write_bytes(case.model.SerializeToString())
    return paths


@pytest.mark.slow
def test_all_models_of_onnx_end_in_a_figure_or_a_message(tmp_path: Path) -> None:
    paths = backend_models(tmp_path)
    assert len(paths) > 1000
    counted = held(paths)
    print(dict(counted))
    assert counted["estimate 0"] > len(paths) / 4
    assert counted["bench 0"] > len(paths) / 4


def test_a_few_models_of_onnx(tmp_path: Path) -> None:
    paths = sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("*.onnx"))
    held(random.Random(7).sample(paths, 12))


# --- damaged models ---------------------------------------------------------------------------------------------------------


def seeds() -> list[onnx.ModelProto]:
    return [
        network(),
        recurrent("LSTM", 4),
        parsed(f"{X}, bool c", f"y = If (c) {BODY}"),
        parsed(X, "y = local.F(x)", functions=function("F", "b = Add(a, a)")),
        parsed(X, LOOP_CYCLE.replace("Add(q, x)", "Add(n, n)").replace("Identity(p)", "Add(x, x)")),
    ]


def messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if hasattr(value, "ListFields") else value:
                yield from messages(child)


def mutated(model: onnx.ModelProto, draw: random.Random) -> bytes:
    """A model with one to three of its fields changed: dropped, doubled, set to extremes or to another name of the model."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    names = [node.name or node.op_type for node in copy.graph.node] + [
        name for node in copy.graph.node for name in (*node.input, *node.output)
    ]
    for _ in range(draw.randint(1, 3)):
        message = draw.choice(list(messages(copy)))
        field, value = draw.choice(message.ListFields() or [(None, None)])
        if field is None:
            continue
        if hasattr(value, "append") or hasattr(value, "add"):
            _change_list(value, names, draw)
        elif isinstance(value, str):
            setattr(message, field.name, draw.choice([*names, "", "\x1b[0m\n", "x" * 5000]))
        elif isinstance(value, bytes):
            setattr(message, field.name, draw.choice([b"", value * 2, value[:-1]]))
        elif isinstance(value, int) and field.enum_type is None:
            low = -(2**63) if field.type == field.TYPE_INT64 else -(2**31)
            setattr(message, field.name, draw.choice([0, 1, -1, low, -low - 1, value + 1]))
        else:
            message.ClearField(field.name)
    return copy.SerializeToString()


def _change_list(value: Any, names: list[str], draw: random.Random) -> None:
    place = draw.randrange(len(value))
    if draw.random() < 0.4:
        del value[place]
    elif hasattr(value, "add"):
        value.add().CopyFrom(value[place])
    elif isinstance(value[place], str):
        value[place] = draw.choice([*names, "", "nowhere"])
    elif isinstance(value[place], bytes):
        value[place] = draw.choice([b"", b"\xff", value[place] * 2])
    elif isinstance(value[place], int):
        value[place] = draw.choice([0, 1, -1, 2**31 - 1, value[place] * 2])
    else:
        value.append(value[place])


def bent(model: onnx.ModelProto, draw: random.Random) -> bytes:
    """A model with some of its bytes changed, or cut off."""
    content = bytearray(model.SerializeToString())
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(min(len(content), 400))] = draw.randrange(256)
    return bytes(content[: draw.randrange(len(content))] if draw.random() < 0.2 else content)


def damaged(folder: Path, count: int, seed: int) -> list[Path]:
    draw = random.Random(seed)
    ways: list[Callable[[onnx.ModelProto, random.Random], bytes]] = [mutated, mutated, bent]
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.onnx")
        paths[-1].write_bytes(draw.choice(ways)(draw.choice(seeds()), draw))
    return paths


def test_some_damaged_models(tmp_path: Path) -> None:
    held(damaged(tmp_path, 36, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_many_damaged_models(seed: int, tmp_path: Path) -> None:
    counted = held(damaged(tmp_path, 100, seed))
    print(dict(counted))
    assert len(counted) >= 4
