"""Validates the structure of an ONNX model: names, order of nodes, inputs and attributes of operators, recursion of functions.

Runtimes differ in what they refuse, and some tools hang or crash on invalid models. An external model is therefore validated before
any tool reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx

from tlexport.errors import InvalidFile
from tlexport.onnx_model.names import printable

AGAIN = "export the model again"
MOST_NODES = 1_000_000  # after inlining: a few functions that each call another twice can exceed any memory
MAX_CALL_DEPTH = 100  # depth of nested function calls
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training")
REMARKS = ("doc_string", "producer_name", "producer_version")  # texts that no tool interprets
_Nodes = Sequence[onnx.NodeProto]


def name_of(node: onnx.NodeProto) -> str:
    """Description of a node in messages."""
    outputs = [name for name in node.output if name]
    where = f"'{printable(node.name)}'" if node.name else f"that gives '{printable(outputs[0])}'" if outputs else "without a name"
    return f"the node {where} ({printable(node.op_type) or 'without an operator'})"


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node runs: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reads_of(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, including those that its bodies read from enclosing graphs."""
    names = {name for name in node.input if name}
    for body in bodies_of(node):
        given = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        given |= {tensor.values.name for tensor in body.sparse_initializer} | {name for inner in body.node for name in inner.output}
        names |= set().union({value.name for value in body.output}, *map(reads_of, body.node)) - given
    return names


def check_texts(message: Any, where: str) -> None:
    """Raise InvalidFile for a name that is not UTF-8."""
    for field, value in message.ListFields():
        values = [value] if not field.is_repeated else value
        if field.type == field.TYPE_STRING and field.name not in REMARKS and any(isinstance(one, bytes) or "\0" in one for one in values):
            raise InvalidFile(f"{where} is not a valid ONNX model: a {field.name} in it is not UTF-8 text, or holds NUL", AGAIN)
        if field.message_type is not None:
            for one in values:
                check_texts(one, where)


def check_structure(model: onnx.ModelProto, where: str) -> None:
    """Validate a model against the rules of onnx.proto.

    Args:
        model: a model that :func:`check_texts` has accepted.
        where: the user's name of the model.

    Raises:
        InvalidFile: the model breaks a rule; the message names the node or tensor.
    """
    if not model.graph.node:
        raise InvalidFile(f"{where} is not an ONNX model: it has no nodes", AGAIN)
    if not model.graph.output:
        raise InvalidFile(f"{where} is not a valid ONNX model: its graph has no outputs", AGAIN)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    functions = {(function.domain, function.name): function for function in model.functions}
    if twice := _repeated(f"{function.domain}::{function.name}::{function.overload}" for function in model.functions):
        raise InvalidFile(f"{where} is not a valid ONNX model: two functions are called '{printable(twice.split('::')[1])}'", AGAIN)
    _check_calls(model.graph.node, functions, where)
    _Checked(where, versions, functions).graph(model.graph, frozenset())
    for function in model.functions:
        own = versions | {entry.domain: entry.version for entry in function.opset_import}
        outer = frozenset((*function.input, ""))
        made = _Checked(where, own, functions).nodes(function.node, outer)[0]
        if lost := [name for name in function.output if name not in made]:
            raise InvalidFile(f"{where} is not a valid ONNX model: nothing gives '{printable(lost[0])}' of {printable(function.name)}")


def _check_calls(nodes: _Nodes, functions: Mapping[tuple[str, str], onnx.FunctionProto], where: str) -> None:
    """Refuse recursive functions, and functions with more than MOST_NODES nodes after inlining."""
    sizes: dict[tuple[str, str], int] = {}
    open_calls: list[tuple[str, str]] = []

    def size(inner: Iterable[onnx.NodeProto]) -> int:
        total = 0
        for node in inner:
            key = node.domain, node.op_type
            total += inlined_size_of(key) if key in functions else 1
            total += sum(size(body.node) for body in bodies_of(node))
        return total

    def inlined_size_of(key: tuple[str, str]) -> int:
        if key in open_calls or len(open_calls) > MAX_CALL_DEPTH:
            why = "a function calls itself" if key in open_calls else f"functions call each other more than {MAX_CALL_DEPTH} deep"
            path = " → ".join(printable(name) for _, name in (*open_calls[-6:], key))
            raise InvalidFile(f"{where} is not a valid ONNX model: {why}: {path}", AGAIN)
        if key not in sizes:
            open_calls.append(key)
            sizes[key] = size(functions[key].node)
            open_calls.pop()
        return sizes[key]

    if (count := size(nodes)) > MOST_NODES:
        raise InvalidFile(f"{where} calls functions of {count} nodes in all; up to {MOST_NODES} are read", "export a smaller model")


class _Checked:
    """One pass over a graph and its nested graphs."""

    def __init__(self, where: str, versions: Mapping[str, int], functions: Mapping[tuple[str, str], onnx.FunctionProto]) -> None:
        self._where, self._versions, self._functions = where, versions, functions

    def _refuse(self, why: str) -> InvalidFile:
        return InvalidFile(f"{self._where} is not a valid ONNX graph: {why}", "export the model again, or check it: onnx.checker in Python")

    def graph(self, graph: onnx.GraphProto, outer: frozenset[str]) -> set[str]:
        """Check a graph; returns the names of enclosing graphs that it reads."""
        constants = [tensor.name for tensor in graph.initializer] + [tensor.values.name for tensor in graph.sparse_initializer]
        inputs = [value.name for value in graph.input]
        for names, kind in ((constants, "initializers"), (inputs, "inputs")):
            if twice := _repeated(names):
                raise self._refuse(f"two {kind} are called '{printable(twice)}'")
        if "" in inputs or "" in constants:
            raise self._refuse("an input or an initializer has no name")
        own = frozenset((*constants, *inputs))
        made, read = self.nodes(graph.node, own, outer)
        if lost := [value.name for value in graph.output if value.name not in made and value.name not in outer]:
            raise self._refuse(f"nothing gives its output '{printable(lost[0])}'")
        return (read | {value.name for value in graph.output}) - made

    def nodes(self, nodes: _Nodes, given: frozenset[str], outer: frozenset[str] = frozenset()) -> tuple[set[str], set[str]]:
        """Check nodes; returns the names that are visible to them, and the names that they read."""
        made = set(given)
        for node in nodes:
            self._node(node)
            for name in node.output:
                if name and name in made:
                    raise self._refuse(f"{name_of(node)} gives '{printable(name)}', which something else gives too")
                made.add(name)
        known = outer | made
        reads = []
        for node in nodes:
            bodies = [self.graph(body, frozenset(known)) for body in bodies_of(node)]
            reads.append({name for name in node.input if name}.union(*bodies))
            if lost := sorted(reads[-1] - known):
                raise self._refuse(f"{name_of(node)} reads '{printable(lost[0])}', which nothing gives")
        sorted_nodes(nodes, reads, self._where)
        return made, set().union(*reads)

    def _node(self, node: onnx.NodeProto) -> None:
        """Check a node against its operator's schema."""
        if not node.op_type:
            raise self._refuse(f"{name_of(node)} has no operator")
        if twice := _repeated([attribute.name for attribute in node.attribute]):
            raise self._refuse(f"{name_of(node)} has the attribute '{printable(twice)}' twice")
        if (node.domain, node.op_type) in self._functions or node.domain not in STANDARD_DOMAINS:
            return
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = self._versions.get(domain, self._versions.get("ai.onnx", 1) if not domain else 1)
        try:
            schema = onnx.defs.get_schema(node.op_type, max(1, min(version, 2**31 - 1)), domain)
        except onnx.defs.SchemaError:
            return  # the runtime reports unknown operators
        for count, kind, least, most in (
            (len(node.input), "inputs", schema.min_input, schema.max_input),
            (len(node.output), "outputs", schema.min_output, schema.max_output),
        ):
            if not least <= count <= most:
                expected = f"{least}" if least == most else f"at least {least}" if count < least else f"at most {most}"
                raise self._refuse(f"{name_of(node)} has {count} {kind}; {expected} {'was' if expected == '1' else 'were'} expected")
        self._inputs(node, schema)
        self._attributes(node, schema)

    def _inputs(self, node: onnx.NodeProto, schema: Any) -> None:
        single = onnx.defs.OpSchema.FormalParameterOption.Single
        for name, parameter in zip(node.input, schema.inputs, strict=False):
            if not name and parameter.option == single:
                raise self._refuse(f"{name_of(node)} has no input '{parameter.name}', which its operator needs")

    def _attributes(self, node: onnx.NodeProto, schema: Any) -> None:
        given = {attribute.name: attribute for attribute in node.attribute}
        for name, formal in schema.attributes.items():
            attribute = given.get(name)
            if attribute is None and formal.required:
                raise self._refuse(f"{name_of(node)} has no attribute '{name}', which its operator needs")
            if attribute is None or attribute.ref_attr_name:
                continue
            if attribute.type not in (0, formal.type.value) and formal.type.value:
                kinds = onnx.AttributeProto.AttributeType
                found = kinds.Name(attribute.type) if attribute.type in kinds.values() else attribute.type
                raise self._refuse(f"the attribute '{name}' of {name_of(node)} is of type {found}; {formal.type.name} was expected")
        if node.op_type == "Constant" and not node.attribute:
            raise self._refuse(f"{name_of(node)} has no value")


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def sorted_nodes(nodes: _Nodes, reads: Sequence[set[str]], where: str) -> list[int]:
    """Topological order of nodes; the order of the file if that is topological.

    Args:
        nodes: the nodes of one graph.
        reads: the names that each node reads, including its bodies.
        where: the user's name of the model.

    Raises:
        InvalidFile: the nodes form a cycle; the message names it.
    """
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waiting = [sorted({makers[name] for name in names if name in makers}, reverse=True) for names in reads]
    order: list[int] = []
    done: set[int] = set()
    for start in range(len(nodes)):
        path: dict[int, None] = {} if start in done else {start: None}
        while path:
            index = next(reversed(path))
            while waiting[index] and waiting[index][-1] in done:
                waiting[index].pop()
            if not waiting[index]:
                path.pop(index)
                done.add(index)
                order.append(index)
            elif waiting[index][-1] in path:
                raise InvalidFile(f"{where} is not a valid ONNX graph: cycle through {_cycle(nodes, [*path], waiting[index][-1])}", AGAIN)
            else:
                path[waiting[index][-1]] = None
    return order


def _cycle(nodes: _Nodes, path: Sequence[int], again: int) -> str:
    names = [printable(nodes[one].name or nodes[one].output[0]) for one in (*path[path.index(again) :], again)]
    return " → ".join(names if len(names) <= 8 else [*names[:4], "...", *names[-3:]])
