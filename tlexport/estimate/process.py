"""Counts the cost of a model file in a separate process: ONNX's and ONNX Runtime's C++ code may crash or hang on an external file.

The request is JSON on the child's standard input; the answer is JSON on its standard output. The child is
``python -m tlexport.estimate.process``.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from pydantic import TypeAdapter, ValidationError

from tlexport.artifact import Precision
from tlexport.child import PARENT, Failure, deadline, death, limit_memory, run
from tlexport.device import lifeline
from tlexport.errors import TlxError, Unsupported
from tlexport.estimate.costed import Costs, Graph
from tlexport.estimate.graph import read_with
from tlexport.estimate.shapes import BENCH_COMMAND
from tlexport.onnx_model.precision import precision_of
from tlexport.record import Record

LONGEST = 100.0  # seconds


class Question(Record):
    """The request: a model and its shapes."""

    path: Path
    what: str
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Counted:
    """The counted cost of a model file."""

    costs: Costs
    precision: Precision
    note: str
    sha256: str
    batch: int  # length of the first axis of its first input


_ANSWER: TypeAdapter[Counted | Failure] = TypeAdapter(Counted | Failure)


def count(path: Path, shapes: dict[str, tuple[int, ...]]) -> Counted:
    """Count the cost of a model in a new process.

    Raises:
        InvalidFile: not a valid ONNX file.
        UsageError: a shape is missing, or does not fit.
        Unsupported: work that is not counted, a type that is not estimated; the runtime crashes on the model, or takes too long.
    """
    question = Question(path=path.absolute(), what=str(path), shapes=shapes)
    code, answers, log = run("tlexport.estimate.process", question.model_dump_json())
    try:
        answer = _ANSWER.validate_json(answers.rpartition("\n")[2])
    except ValidationError:
        raise death(f"estimating {path}", code, log) from None
    if isinstance(answer, Failure):
        error = answer.as_error()
        error.hint = error.hint.replace(BENCH_COMMAND, shlex.join(["tlx", "bench", str(path), *_options(shapes)]))
        raise error
    return answer


def _options(shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for name, shape in shapes.items():
        yield from ("--shape", f"{name}={','.join(map(str, shape))}")


def counted(question: Question) -> Counted:
    """The same in this process."""
    try:
        found, model, batch = read_with(question.path, question.shapes, question.what)
        precision = precision_of(model, question.what)
        graph = Graph(model, found.size_bytes, question.what)
        costs = Costs(graph.portable, graph.native, graph.plain, graph.size_bytes)
    except MemoryError:
        raise Unsupported(f"{question.what} needs more memory than this machine has free", "estimate it at a smaller --shape") from None
    return Counted(costs, precision.computed, precision.note, found.sha256, batch)


def main() -> int:
    """The child: read a request from standard input and answer it. Returns the exit code."""
    lifeline.end_with_parent()
    lines: SimpleQueue[str | None] = SimpleQueue()
    lifeline.follow(sys.stdin, lines.put, int(os.environ.get(PARENT, os.getppid())))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # output of libraries goes to standard error
        question = Question.model_validate_json(lines.get() or "")
        limit_memory()
        try:
            with deadline(LONGEST):
                answer: Counted | Failure = counted(question)
        except TlxError as error:
            answer = Failure.of(error)
        answers.write(_ANSWER.dump_json(answer).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
