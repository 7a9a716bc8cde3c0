"""External ONNX files in `estimate` and `bench`: a correct figure, or a message that names the object with a working hint."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import here
from external_graphs import BODY, LOOP_CYCLE, X, function, parsed, recurrent
from external_models import ends
from onnx import TensorProto, helper, numpy_helper

from tlexport.errors import InvalidFile, TlxError
from tlexport.estimate.process import Counted, Question, counted
from tlexport.onnx_model.external import read_external

Model = onnx.ModelProto


def saved(path: Path, model: Model) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def count(path: Path, **shapes: tuple[int, ...]) -> Counted:
    return counted(Question(path=path, what=str(path), shapes=shapes))


# --- malformed --------------------------------------------------------------------------------------------------------------


def tensor(name: str, dims: list[int], raw: bytes, dtype: int = TensorProto.FLOAT) -> onnx.TensorProto:
    return TensorProto(name=name, dims=dims, raw_data=raw, data_type=dtype)


def with_tensor(made: onnx.TensorProto, name: str = "w") -> Model:
    model = parsed(X, "y = Add(x, w)\nw = Identity(x)")
    del model.graph.node[1]
    made.name = name
    model.graph.initializer.append(made)
    return model


def attributes_of(model: Model, **changes: Any) -> Model:
    for name, value in changes.items():
        model.graph.node[0].attribute.append(helper.make_attribute(name, value))
    return model


def twice(model: Model) -> Model:
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    return model


BOMB = "".join(function(f"F{i}", f"c = local.F{i + 1}(a)\nb = local.F{i + 1}(c)") for i in range(40)) + function("F40", "b = Abs(a)")
MALFORMED: dict[str, tuple[Callable[[], Model], str]] = {
    "a node feeds itself": (lambda: parsed(X, "a = Add(a, x)\ny = Abs(a)"), "cycle through a → a"),
    "two nodes": (lambda: parsed(X, LOOP_CYCLE), "cycle through p → q → p"),
    "many nodes": (
        lambda: parsed(X, "\n".join(f"t{i} = Add(t{(i + 1) % 500}, x)" for i in range(500)) + "\ny = Abs(t0)"),
        "cycle through t0 → t1 → t2 → t3 → ... → t498 → t499 → t0",
    ),
    "in a body": (
        lambda: parsed(
            f"{X}, bool c",
            "y = If (c) <then_branch = t () => (float[1,4] o) { p = Abs(o) o = Abs(p) }, else_branch = e () => (o2) { o2 = Abs(x) }>",
        ),
        "cycle through",
    ),
    "in a function": (lambda: parsed(X, "y = local.F(x)", functions=function("F", "c = Abs(b)\nb = Abs(c)")), "cycle through"),
    "a function calls itself": (lambda: parsed(X, "y = local.F(x)", functions=function("F", "b = local.F(a)")), "calls itself: F → F"),
    "two functions of one name": (
        lambda: parsed(X, "y = local.F(x)", functions=2 * function("F", "b = Abs(a)")),
        "two functions are called 'F'",
    ),
    "functions of 2^40 nodes": (lambda: parsed(X, "y = local.F0(x)", functions=BOMB), "1099511627776 nodes"),
    "a name that nothing gives": (lambda: parsed(X, "y = Add(x, nowhere)"), "reads 'nowhere', which nothing gives"),
    "two nodes give one": (lambda: parsed(X, "y = Abs(x)\ny = Neg(x)"), r"\(Neg\) gives 'y', which something else gives"),
    "a node gives an input": (lambda: parsed(X, "x = Abs(x)\ny = Abs(x)"), "gives 'x', which something else gives"),
    "an output that nothing gives": (lambda: parsed(X, "z = Abs(x)"), "nothing gives its output 'y'"),
    "no nodes": (lambda: parsed(X, ""), "no nodes"),
    "no outputs": (lambda: parsed(X, "y = Abs(x)", outputs=""), "no outputs"),
    "a constant without a value": (lambda: parsed(X, "w = Constant()\ny = Add(x, w)"), r"'w' \(Constant\) has no value"),
    "no input": (lambda: parsed(X, "q = DequantizeLinear()\ny = Add(x, q)"), r"\(DequantizeLinear\) has 0 inputs; at least 2"),
    "an input left out": (lambda: parsed(X, 'y = Add(x, "")'), "has no input 'B'"),
    "no attribute": (lambda: parsed(X, "y = Concat(x, x)"), "has no attribute 'axis'"),
    "an attribute of another type": (lambda: attributes_of(parsed(X, "y = Concat(x, x)"), axis=1.5), "is of type FLOAT; INT was expected"),
    "an attribute twice": (lambda: attributes_of(parsed(X, "y = Concat<axis=0>(x, x)"), axis=1), "the attribute 'axis' twice"),
    "less data than its shape": (lambda: with_tensor(tensor("w", [1, 4], b"1234")), r"'w' of .* holds 4 bytes .* is 16 bytes"),
    "more": (lambda: with_tensor(tensor("w", [1, 4], bytes(20))), "holds 20 bytes"),
    "no data at all": (lambda: with_tensor(TensorProto(dims=[2**40, 2**20], data_type=1)), "holds 0 elements"),
    "a negative axis": (lambda: with_tensor(tensor("w", [-1, 4], bytes(16))), r"\(-1, 4\)"),
    "axes of 2^62": (lambda: with_tensor(tensor("w", [2**62, 2**62], bytes(16))), "holds 16 bytes"),
    "10,000 axes": (lambda: with_tensor(tensor("w", [2**62] * 10_000, b"")), "10000 axes"),
    "a type that ONNX does not have": (lambda: with_tensor(tensor("w", [1], bytes(4), 77)), "number 77"),
    "an initializer twice": (
        lambda: twice(with_tensor(tensor("w", [1, 4], bytes(16)))),
        "two initializers are called 'w'",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_model_is_refused_and_the_object_named(name: str, tmp_path: Path) -> None:
    make, words = MALFORMED[name]
    with pytest.raises(InvalidFile, match=words) as error:
        read_external(saved(tmp_path / "m.onnx", make()))
    assert "m.onnx" in error.value.message
    assert error.value.hint


def test_a_cycle_ends_both_commands_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("m.ONNX"), parsed(X, LOOP_CYCLE))  # the suffix in capitals
    for arguments in (("estimate", "m.ONNX", "-t", "jetson-nano"), ("bench", "m.ONNX")):
        ended = here(capfd, *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("error: m.ONNX is not a valid ONNX graph: cycle through p → q → p\nhint: ")


@pytest.mark.parametrize("old", [b"net", b"Abs", b"pqrs"])
@pytest.mark.parametrize("new", [b"\xff\xfe", b"\x00a", b"\x1b[31m", b"\n", "é".encode()])
def test_odd_bytes_in_names_are_refused_or_shown_escaped(old: bytes, new: bytes, tmp_path: Path) -> None:
    content = parsed("float[1,4] pqrs, float[1,h] z", "y = Abs(pqrs)").SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content.replace(old, new + old[len(new) :] if len(new) <= len(old) else new[: len(old)]))
    with pytest.raises(TlxError) as error:
        count(tmp_path / "m.onnx")
    assert (error.value.message + error.value.hint).isprintable()


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    whole = parsed(X, "w = Constant<value = float[1,4] {1, 2, 3, 4}>()\ny = Add(x, w)")
    del whole.opset_import[:]  # so that the graph comes last, and every cut goes through it
    model = whole.SerializeToString()
    path = tmp_path / "m.onnx"
    for content in (
        b"",
        b"text",
        b"<!doctype html><html>",
        b"PK\3\4" + bytes(30),
        bytes(1000),
        *(model[:cut] for cut in range(len(model))),
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidFile, match=r"m\.onnx"):
            read_external(path)
    with path.open("wb") as stream:
        stream.truncate(3 * 10**9)  # without blocks
    with pytest.raises(InvalidFile, match="3000000000 bytes"):
        read_external(path)


# --- weights in other files -------------------------------------------------------------------------------------------------


def external(location: str, offset: str = "0", length: str = "16") -> Model:
    made = TensorProto(dims=[1, 4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        made.external_data.add(key=key, value=value)
    return with_tensor(made)


@pytest.mark.parametrize(
    ("location", "offset", "length", "words"),
    [
        ("gone", "0", "16", "'gone', which does not exist in"),
        ("../m.data", "0", "16", "a file in the model's folder was expected"),
        ("/dev/zero", "0", "16", "a file in the model's folder was expected"),
        ("", "0", "16", "a file in the model's folder was expected"),
        ("m.data/../m.data", "0", "16", "a file in the model's folder was expected"),
        ("outside", "0", "16", "a link out of the model's folder"),
        ("zero", "0", "16", "a link out of the model's folder"),
        ("fifo", "0", "16", "not a regular file"),
        ("folder", "0", "16", "not a regular file"),
        ("m.data", "4", "16", "bytes 4 to 20, but the file holds 16"),
        ("m.data", "99999999999999", "16", "but the file holds 16"),
        ("m.data", "-4", "16", "not a number"),
        ("m.data", "9" * 5000, "16", "not a number"),
        ("m.data", "0", "8", "8 bytes, but"),
        ("x" * 5000, "0", "16", "cannot be read|does not exist"),
    ],
)
def test_data_is_read_from_files_in_the_folder_alone(location: str, offset: str, length: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.data").write_bytes(bytes(16))
    (tmp_path / "folder").mkdir()
    (tmp_path.parent / "outside").write_bytes(bytes(16))
    (tmp_path / "outside").symlink_to(tmp_path.parent / "outside")
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidFile, match=words) as error:
        read_external(saved(tmp_path / "m.onnx", external(location, offset, length)))
    assert "the tensor 'w'" in error.value.message


def test_weights_beside_the_model_are_read_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "m.data").write_bytes(bytes(16))
    path = saved(tmp_path / "m.onnx", external("m.data"))
    [(_, end)] = ends([path])
    assert end == {"estimate": "0", "bench": "0"}
    found = count(path)
    assert found.costs.size_bytes == path.stat().st_size + 16
    (tmp_path / "m.data").write_bytes(b"other weights...")
    assert count(path).sha256 != found.sha256


# --- what is counted --------------------------------------------------------------------------------------------------------


def test_the_work_of_recurrences_and_transposed_convolutions_is_counted(tmp_path: Path) -> None:
    for operator, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        cost = count(saved(tmp_path / "m.onnx", recurrent(operator, gates))).costs.portable[0]
        assert (cost.macs, cost.unknown) == (20 * gates * 8 * (4 + 8), (operator,))
    body = "w = ConstantOfShape(s)\ny = ConvTranspose(x, w)"
    model = parsed("float[1,2,5,5] x", body, "float[1,3,7,7] y")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3, 3, 3]), "s"))
    assert count(saved(tmp_path / "m.onnx", model)).costs.portable[0].macs == 5 * 5 * 2 * 3 * 9


def test_functions_and_unsorted_nodes_are_counted_as_what_they_are(tmp_path: Path) -> None:
    product = "w = ConstantOfShape(s)\nb = MatMul(a, w)"
    models = [
        parsed(X, "y = local.F(x)", functions=function("F", "s = Constant<value_ints=[4, 4]>()\n" + product)),
        parsed(X, "y = Relu(b)\nb = MatMul(x, w)\nw = ConstantOfShape(s)\ns = Constant<value_ints=[4, 4]>()"),
    ]
    assert [count(saved(tmp_path / "m.onnx", model)).costs.portable[0].macs for model in models] == [16, 16]


UNCOUNTED = {
    "If": lambda: parsed(f"{X}, bool c", f"y = If (c) {BODY}"),
    "Loop": lambda: parsed(
        f"{X}, int64 n",
        "y = Loop(n, , x) <body = b (int64 i, bool c, float[1,4] v) => (bool d, float[1,4] o) { d = Identity(c) o = Abs(v) }>",
    ),
    "Det": lambda: parsed("float[1,4,4] x", "y = Det(x)", "float[1] y"),
    "NonMaxSuppression": lambda: parsed("float[1,9,4] x, float[1,2,9] s", "y = NonMaxSuppression(x, s)", "int64[n,3] y"),
}


@pytest.mark.parametrize("operator", UNCOUNTED)
def test_work_that_is_not_counted_gets_no_figure(
    operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("a model.onnx"), UNCOUNTED[operator]())
    ended = here(capfd, "estimate", "a model.onnx", "-t", "jetson-nano", "--max-latency", "1s")
    assert (ended.code, ended.out) == (4, "")
    assert f"({operator})" in ended.err
    hint = shlex.split(ended.err.partition("hint: measure it: ")[2])
    assert hint == ["tlx", "bench", "a model.onnx"]
    if operator == "Det":  # the hint works as it stands
        assert here(capfd, *hint[1:], "--runs", "1", "--seconds", "0").code == 0


def test_a_model_without_work_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("m.onnx"), parsed(X, "w = Constant<value_ints=[4, 1]>()\ny = Reshape(x, w)", "float[4,1] y"))
    ended = here(capfd, "estimate", "m.onnx", "-t", "jetson-nano")
    assert (ended.code, "m.onnx does 0 MACs" in ended.err) == (4, True)


# --- shapes and types -------------------------------------------------------------------------------------------------------


def test_the_hint_on_shapes_can_be_typed_in_both_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    value = helper.make_tensor_value_info
    names = ["img:0", "a b=c", "tab\there"]
    nodes = [helper.make_node("Abs", [name], [f"y{place}"]) for place, name in enumerate(names)]
    inputs = [value(names[0], 1, ["n", "h", 4]), value(names[1], 1, [1, 3, None, None]), value(names[2], 1, [1, None])]
    outputs = [value(f"y{place}", 1, None) for place in range(3)]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    saved(Path("m.onnx"), helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    for arguments in (["estimate", "m.onnx", "-t", "jetson-nano"], ["bench", "m.onnx", "--runs", "1", "--seconds", "0"]):
        ended = here(capfd, *arguments)
        assert ended.code == 2
        hint = re.sub(
            r"\$'([^']*)'", lambda found: shlex.quote(found[1].encode().decode("unicode_escape")), ended.err.partition("such as: ")[2]
        )
        again = here(capfd, *arguments, *shlex.split(hint))
        assert again.code == 0, again.err


def test_a_fixed_batch_is_said_by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("m.onnx"), parsed("float[4,9] x, float[9] z", "y = Add(x, z)", "float[4,9] y"))
    ended = here(capfd, "estimate", "m.onnx", "-t", "jetson-nano")
    assert "m.onnx has a fixed batch of 4" in ended.err
    assert "ms for each of the 4 images of a batch" in ended.out
    ended = here(capfd, "bench", "m.onnx", "--runs", "1", "--seconds", "0")
    assert "m.onnx has a fixed batch of 4" in ended.err


UNFIT = [
    ("string[2] x", "y = Identity(x)", "string[2] y", "'x'.*STRING"),
    ("complex64[2] x", "y = Identity(x)", "complex64[2] y", "'x'.*COMPLEX64|complex64"),
    ("seq(float[2]) x", "y = SequenceLength(x)", "int64 y", "'x'.*a sequence"),
    ("optional(float[2]) x", "y = OptionalHasElement(x)", "bool y", "'x'.*an optional"),
    ("float[2] x", "y = SequenceConstruct(x)", "seq(float[2]) y", "'y'.*sequence|'y'.*not a tensor"),
    ("float[0] x", "y = Abs(x)", "float[0] y", "'x'.*length 0"),
    (f"float[{2**62}] x", "y = Abs(x)", f"float[{2**62}] y", r"'x'.*4611686018427387904"),
    ("float[4] x", "y = local.Nothing(x)", "float[4] y", "Nothing"),
]


def test_what_cannot_be_fed_or_counted_is_named(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{place}.onnx", parsed(*row[:3], opset=18)) for place, row in enumerate(UNFIT)]
    for (path, end), (*_, words) in zip(ends(paths), UNFIT, strict=True):
        for command, answer in end.items():
            assert re.match(rf"[24] (?s:.*)({words})", answer), (path.name, command, answer)


def test_newer_than_the_runtime(tmp_path: Path) -> None:
    models = [parsed(X, "y = Abs(x)"), parsed(X, "y = Abs(x)", opset=99)]
    models[0].ir_version = 99
    paths = [saved(tmp_path / f"{place}.onnx", model) for place, model in enumerate(models)]
    for (_, end), words in zip(ends(paths), ("IR version 99", "opset 99 of ai.onnx"), strict=True):
        for answer in end.values():
            assert re.match(rf"2 .*{words}; the newest that ONNX Runtime [\d.]+ reads is \d+ \| ", answer), answer
            assert "::" not in answer


def test_tensors_beyond_the_memory_end_in_a_message(tmp_path: Path) -> None:
    model = parsed("int64[2] x", "w = ConstantOfShape(x)\ny = ReduceSum<keepdims=0>(w)", "float y")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**19, 2**19]), "big"))
    model.graph.node[0].input[0] = "big"
    [(_, end)] = ends([saved(tmp_path / "m.onnx", model)])
    for answer in end.values():
        assert answer[0] in "24", answer
