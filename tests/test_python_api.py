"""`import tlexport`: the functions do what the commands do, with the same options, results and errors, and import nothing until a call."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import signal
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from commands import ROOT, commands, environment, here

import tlexport
from tlexport.python import notebook
from tlexport.python.result import Result

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(tlexport, name) for name in ("finetune", "evaluate", "export", "bench", "estimate", "verify", "predict")
}
COMMANDS = commands()
LAZY = {"torch", "torchvision", "numpy", "onnx", "onnxruntime", "pydantic", "PIL", "rich", "click", "matplotlib", "sklearn", "IPython"}
# --json is to_dict(); a table in Markdown is printed; nobody is asked in Python, so nothing is confirmed beforehand
WITHOUT = {"json", "help", "markdown", "yes"}
HOSTILE = "<img src=x onerror=alert(1)>&\"'"


def python(code: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    words = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, env=environment(), capture_output=True, encoding="utf-8", timeout=600, check=False)


# The package


def test_the_import_loads_nothing_heavy_and_names_the_functions(tmp_path: Path) -> None:
    code = "import tlexport, json, sys; print(json.dumps([sorted({m.partition('.')[0] for m in sys.modules}), dir(tlexport)]))"
    done = python(code, cwd=tmp_path)
    loaded, names = json.loads(done.stdout)
    assert LAZY.isdisjoint(loaded) and "tlexport" in loaded
    assert {*FUNCTIONS, "TlxError", "OverBudget", "__version__"} <= set(names)


def test_the_functions_stay_when_folders_of_their_names_are_imported(tmp_path: Path) -> None:
    code = (
        "import tlexport.export.engine, tlexport.bench.noise, tlexport.estimate.ranking\n"
        "from tlexport import bench, estimate, export\nprint(export.__name__, bench.__name__, estimate.__name__)\n"
        "print(callable(tlexport.export), callable(tlexport.bench), callable(tlexport.estimate))"
    )
    done = python(code, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("export bench estimate\nTrue True True\n", 0), done.stderr


def test_only_names_that_exist_are_offered() -> None:
    assert all(hasattr(tlexport, name) for name in tlexport.__all__)
    tree = ast.parse((ROOT / "tlexport/__init__.py").read_text(encoding="utf-8"))
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]  # a plain import: editors follow it


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_typed_and_documented(name: str) -> None:
    function = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    hints = typing.get_type_hints(inspect.unwrap(function), vars(sys.modules[function.__module__]))
    for parameter in inspect.signature(function).parameters:
        assert parameter in hints
        assert re.search(rf"^ +{parameter}: \S", text, re.MULTILINE), parameter


# The options


def options_of(name: str) -> dict[str, click.Parameter]:
    """The options of a command by their longest names, as Python writes them, and its arguments."""
    found = {}
    for parameter in COMMANDS[name].params:
        longest = max(parameter.opts, key=len).lstrip("-").replace("-", "_")
        found[str(parameter.name) if isinstance(parameter, click.Argument) else longest] = parameter
    return found


def default_of(name: str, parameter: click.Parameter) -> object:
    """What the command's function is given when nothing is typed."""
    context = click.Context(COMMANDS[name], resilient_parsing=True)
    value = parameter.get_default(context)
    value = None if value is None or "Sentinel" in type(value).__name__ else value
    if value is None and (parameter.multiple if isinstance(parameter, click.Option) else False):
        return ()
    if value is None and isinstance(parameter, click.Option) and parameter.is_flag and parameter.secondary_opts == []:
        return False
    return value


@pytest.mark.parametrize("name", FUNCTIONS)
def test_names_and_defaults_are_those_of_the_command(name: str) -> None:
    options = {key: option for key, option in options_of(name).items() if key not in WITHOUT}
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    assert set(parameters) == set(options)
    for key, option in options.items():
        default = parameters[key].default
        if option.required:
            assert default is inspect.Parameter.empty
        elif key == "batch":  # "1", one of several numbers
            assert str(default) == default_of(name, option)
        else:
            assert default == default_of(name, option), key
        assert (parameters[key].kind is inspect.Parameter.KEYWORD_ONLY) == isinstance(option, click.Option)


def limited(kind: type[click.ParamType]) -> list[tuple[str, str, Any]]:
    """Every option of a type: the function, the parameter, the type."""
    found = [(name, key, option.type) for name in FUNCTIONS for key, option in options_of(name).items() if isinstance(option.type, kind)]
    assert found
    return found


def call(name: str, **changes: Any) -> Any:
    """A call that would fail for its paths, but after the values were checked."""
    required = {"estimate": {"target": "cpu-x86"}, "export": {"target": "cpu-x86"}}.get(name, {})
    places = [key for key, option in options_of(name).items() if isinstance(option, click.Argument)]
    return FUNCTIONS[name](*["missing"] * len(places), **(required | changes))


@pytest.mark.parametrize(("name", "key", "kind"), limited(click.Choice), ids=lambda value: value if isinstance(value, str) else "")
def test_a_word_that_is_no_choice_is_refused(name: str, key: str, kind: click.Choice[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(tlexport.UsageError, match=key) as error:
        call(name, **{key: "nonsense"})
    assert all(word in error.value.message for word in kind.choices)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("name", "key", "kind"), limited(click.IntRange), ids=lambda value: value if isinstance(value, str) else "")
def test_a_number_beyond_the_limits_is_refused(name: str, key: str, kind: click.IntRange) -> None:
    for beyond in (kind.min - 1 if kind.min is not None else None, kind.max + 1 if kind.max is not None else None):
        if beyond is not None:
            with pytest.raises(tlexport.UsageError, match=key):
                call(name, **{key: beyond})
    with pytest.raises(tlexport.TlxError) as error:  # the limits themselves are taken, also as numpy's
        call(name, **{key: np.int64(kind.min or 0)})
    assert key not in error.value.message


@pytest.mark.parametrize(("name", "key", "kind"), limited(click.FloatRange), ids=lambda value: value if isinstance(value, str) else "")
def test_a_fraction_beyond_the_limits_is_refused(name: str, key: str, kind: click.FloatRange) -> None:
    beyond = [(kind.min or 0) - 1, float("nan"), "0.5"] + ([kind.max + 1] if kind.max is not None else [])
    for value in beyond:
        with pytest.raises(tlexport.UsageError, match=key):
            call(name, **{key: value})


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("export", {"max_size": "2 potatoes"}, "max_size: '2 potatoes' is not a quantity"),
        ("export", {"max_size": 0}, "max_size: 0 "),
        ("export", {"max_latency": [1]}, "max_latency: \\[1\\] is neither"),
        ("export", {"dry_run": "no"}, "dry_run='no' is not True or False"),
        ("export", {"out": "."}, "out: '.' is the current directory"),
        ("estimate", {"target": ()}, "give target"),
        ("estimate", {"all": True}, "give target"),
        ("bench", {"batch": []}, "batch is empty"),
        ("bench", {"max_regression": "5"}, "max_regression: '5' is not a percentage"),
        ("bench", {"shape": "image"}, "shape: 'image' is not a shape"),
        ("verify", {"device": "gpu"}, "device: 'gpu' is not a device"),
        ("verify", {"host_python": "python3"}, "--host-python"),
        ("predict", {"runtime": "torch", "provider": "tensorrt"}, "provider: .*torch"),
        ("evaluate", {"verbose": True, "quiet": True}, "exclude each other"),
        ("finetune", {"lr": "fast"}, "lr: 'fast' is neither a number nor auto"),
        ("finetune", {"background": "red"}, "background: 'red' is not a colour"),
    ],
)
def test_a_wrong_value_is_named(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(tlexport.UsageError, match=said):
        call(name, **changes)


@pytest.mark.parametrize("value", [None, 3, b"x", ["x"]])
def test_what_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(tlexport.UsageError, match=r"what=.* a str or a pathlib.Path was expected"):
        tlexport.evaluate(value, "data")


# The results


def same(capfd: pytest.CaptureFixture[str], result: Result, *arguments: str | Path, code: int = 0) -> None:
    """What the command prints with --json is the result's plain data; and nothing was printed here."""
    assert capfd.readouterr().out == ""
    ended = here(capfd, *arguments, "--json")
    assert ended.code == code, ended.err
    assert json.loads(ended.out) == result.to_dict()
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()
    assert len(repr(result).splitlines()) > 1 and result._repr_html_().startswith("<")


def test_evaluate(bundle: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = tlexport.evaluate(bundle, str(digits), precision="int8", threads=np.int64(1), part="all")
    assert (result.n, len(result.classes)) == (int(result.confusion.sum()), 10)
    assert result.top1 == result.confusion.trace() / result.n
    assert result.per_class["0"].n == 12
    same(capfd, result, "evaluate", bundle, digits, "--precision", "int8", "--threads", "1", "--part", "all")


def test_predict(checkpoint: Path, digits: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = sorted(digits.rglob("*.png"))[:3]
    result = tlexport.predict(np.str_(checkpoint), images, device="cpu")
    assert [one.path for one in result] == images and result[0].probability == max(result[0].probabilities.values())
    assert result == tlexport.predict(checkpoint, [str(image) for image in images], device="cpu")
    same(capfd, result, "predict", checkpoint, *images, "--device", "cpu")
    assert tlexport.predict(checkpoint, images[0], device="cpu")[:1] == result[:1]


def test_predict_keeps_what_it_could_read(checkpoint: Path, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image, bad = next(digits.rglob("*.png")), tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    with pytest.raises(tlexport.InvalidFile, match=r"bad.png") as error:
        tlexport.predict(checkpoint, [image, bad], device="cpu")
    assert isinstance(error.value.result, Result)
    same(capfd, error.value.result, "predict", checkpoint, image, bad, "--device", "cpu", code=2)


def test_verify(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = tlexport.verify(str(bundle), device="cpu")
    assert result.ok and all(check.ok for check in result.checks)
    same(capfd, result, "verify", bundle, "--device", "cpu")
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / "labels.txt").write_text("other\n", encoding="utf-8")
    with pytest.raises(tlexport.VerificationFailed, match=r"labels.txt") as error:
        tlexport.verify(broken)
    failed = error.value.result
    assert isinstance(failed, Result) and failed.to_dict()["ok"] is False
    same(capfd, failed, "verify", broken, code=5)


@pytest.mark.parametrize("targets", ["raspberry-pi-5", ["raspberry-pi-5", "cpu-x86"]], ids=["one", "several"])
def test_estimate(targets: str | list[str], bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = tlexport.estimate(bundle, target=targets, precision="fp32", max_size=10**9)
    assert [one.target for one in result] == ([targets] if isinstance(targets, str) else targets)
    typed = [word for name in result for word in ("--target", name.target)]
    same(capfd, result, "estimate", bundle, *typed, "--precision", "fp32", "--max-size", "1GB")


def test_a_limit_that_no_board_keeps_is_an_error_with_the_result(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(tlexport.OverBudget, match=r"1.00 kB") as error:
        tlexport.estimate(bundle, target="raspberry-pi-5", precision="fp32", max_size="1kB")
    result = error.value.result
    assert isinstance(result, Result)
    same(capfd, result, "estimate", bundle, "-t", "raspberry-pi-5", "--precision", "fp32", "--max-size", "1kB", code=6)


def test_the_plan_of_an_export(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = tlexport.export(checkpoint, target="cpu-x86", max_latency=0.01, dry_run=True)
    assert [step.action for step in plan][-1] == "write"
    same(capfd, plan, "export", checkpoint, "--target", "cpu-x86", "--max-latency", "10ms", "--dry-run")


def test_bench(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two measurements differ, so the shape of the JSON is compared."""
    result = tlexport.bench(bundle, precision="int8", batch=[1, 2], threads=1, runs=5, seconds=0, csv=tmp_path / "rows.csv")
    assert [one.batch for one in result] == [1, 2] and all(len(one.latencies_ns) >= 5 for one in result)
    assert len((tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert capfd.readouterr().out == ""
    typed = ("--precision", "int8", "--batch", "1,2", "--threads", "1", "--runs", "5", "--seconds", "0")
    printed = json.loads(here(capfd, "bench", bundle, *typed, "--json").out)
    assert [list(row) for row in printed] == [list(row) for row in result.to_dict()]
    assert "p95" in repr(result) and "<table>" in result._repr_html_()


def test_finetune(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    asked: dict[str, Any] = {"weights": "embedded", "epochs": np.int64(2), "threads": 1, "seed": 3, "quiet": True}
    result = tlexport.finetune(digits, **asked, device="cpu")
    assert result.path == Path("runs/mobilenet_v3_small-1") and result.top1 == result.metrics["val_top1"]
    assert capfd.readouterr() == ("", "")
    typed = ("--weights", "embedded", "--epochs", "2", "--threads", "1", "--seed", "3", "--quiet")
    printed = json.loads(here(capfd, "finetune", digits, *typed, "--device", "cpu", "--json").out)
    changing = {"seconds": 0, "checkpoint": ""}
    assert printed | changing == result.to_dict() | changing
    assert (result.path / "model.safetensors").read_bytes() == Path(printed["checkpoint"], "model.safetensors").read_bytes()
    assert "validation top-1" in repr(result) and "<table>" in result._repr_html_()


@pytest.mark.slow
def test_export(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    exported = tlexport.export(checkpoint, target="cpu-x86", precision="fp32", quiet=True)
    assert exported.path == Path(f"build/{checkpoint.name}-cpu-x86") and exported.models[0].path == exported.path / "model.fp32.onnx"
    assert exported.to_dict()["bundle"] == str(exported.path) and exported.models[0].chosen
    assert "within the budget" in repr(exported) and "<table>" in exported._repr_html_()
    assert capfd.readouterr() == ("", "")


def test_html_and_text_show_hostile_names_harmlessly(checkpoint: Path, digits: Path, tmp_path: Path) -> None:
    named = shutil.copytree(checkpoint, tmp_path / HOSTILE.replace("/", ""))
    record = json.loads((named / "checkpoint.json").read_text(encoding="utf-8"))
    record["classes"][3] = HOSTILE
    (named / "checkpoint.json").write_text(json.dumps(record), encoding="utf-8")
    images = tmp_path / "images" / HOSTILE
    images.mkdir(parents=True)
    shutil.copy(next((digits / "3").iterdir()), images / "\x1b[31m<b>.png")
    results = [tlexport.evaluate(named, images.parent, device="cpu", part="all"), tlexport.predict(named, images, device="cpu")]
    for result in (*results, results[1][0]):
        page = result._repr_html_()
        assert not re.search("<img|<b>|onerror=alert\\(1\\)>", page) and "&lt;img src=x" in page
        assert "\x1b" not in page + repr(result) and HOSTILE in repr(result)


# The errors, and an interruption


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: tlexport.predict("missing", "x.png"), tlexport.InvalidFile, "missing does not exist"),
        (lambda: tlexport.evaluate("missing", "data"), tlexport.InvalidFile, "missing does not exist"),
        (lambda: tlexport.verify("missing"), tlexport.InvalidFile, "missing"),
        (lambda: tlexport.bench("missing"), tlexport.InvalidFile, "missing does not exist"),
        (lambda: tlexport.estimate("missing", target="cpu-x86"), tlexport.InvalidFile, "missing does not exist"),
        (lambda: tlexport.export("missing", target="cpu-x86"), tlexport.InvalidFile, "missing"),
        (lambda: tlexport.export("missing", target="cpu-x87"), tlexport.UsageError, "did you mean 'cpu-x86'"),
        (lambda: tlexport.export(target="cpu-x86"), tlexport.UsageError, "runs/latest does not exist"),
        (lambda: tlexport.finetune("missing", weights="embedded"), tlexport.InvalidFile, "missing"),
        (lambda: tlexport.finetune("data", resume=True, restart=True), tlexport.UsageError, "exclude each other"),
        (lambda: tlexport.finetune("data", epochs=0), tlexport.UsageError, "epochs"),
        (lambda: tlexport.finetune("\ud800"), tlexport.UsageError, "text"),
    ],
)
def test_errors_are_exceptions(
    call: Callable[[], object], kind: type[tlexport.TlxError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said) as error:
        call()
    assert error.value.result is None


def test_a_fault_of_the_machine_is_an_error_of_this_package(checkpoint: Path, tmp_path: Path) -> None:
    """A directory that was removed, as for a command."""
    code = "import os, sys, tlexport\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\ntlexport.evaluate(sys.argv[1], 'x')"
    done = python(code, checkpoint, cwd=tmp_path)
    assert "StepFailed: the current directory no longer exists\nhint: change to another one" in done.stderr and done.returncode == 1


def test_ctrl_c_raises_and_keeps_what_the_command_keeps(digits: Path, tmp_path: Path) -> None:
    code = (
        "import signal, sys, tlexport\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try: tlexport.finetune(sys.argv[1], weights='embedded', epochs=10_000, patience=10_000, threads=1, device='cpu')\n"
        "except KeyboardInterrupt: print('raised')\n"
    )
    words = [sys.executable, "-P", "-c", code, str(digits)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe, encoding="utf-8") as training:
        try:
            assert training.stderr is not None
            while "epoch 2/" not in (line := training.stderr.readline()):
                assert line, "training ended"
            training.send_signal(signal.SIGINT)
            out, err = training.communicate(timeout=600)
        finally:
            training.kill()
    assert out == "raised\n", err
    assert "was kept in runs/mobilenet_v3_small-1" in err and "--resume" in err
    assert (tmp_path / "runs/latest/checkpoint.json").is_file()


# The notebook

EXECUTE = (  # in a process of its own: Jupyter's libraries warn, and a warning fails a test
    "import sys, nbclient, nbformat\nnotebook = nbformat.read(sys.argv[1], 4)\n"
    "nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3').execute()\nnbformat.write(notebook, sys.argv[2])"
)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    source = ROOT / "docs/python-api.ipynb"
    done = python(EXECUTE, source, tmp_path / "executed.ipynb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "executed.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    tables = [output for output in outputs if "<table>" in "".join(output.get("data", {}).get("text/html", ""))]
    assert len(tables) >= 6  # of finetune, evaluate, estimate, export, predict, bench
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any(output["output_type"] == "display_data" for output in outputs)  # the bars


def test_the_notebook_holds_no_outputs_and_calls_every_function() -> None:
    cells = json.loads((ROOT / "docs/python-api.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    text = "".join("".join(cell["source"]) for cell in code)
    assert {name for name in FUNCTIONS if f"tlexport.{name}(" in text} == set(FUNCTIONS)


# A bar in a notebook


def test_a_bar_in_a_notebook_is_escaped_and_removed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Jupyter's display, recorded: IPython is not installed everywhere."""
    shown: list[dict[str, str]] = []

    def update(data: dict[str, str], raw: bool) -> None:
        assert raw
        shown.append(data)

    def display(data: dict[str, str], raw: bool, display_id: bool) -> types.SimpleNamespace:
        assert raw and display_id
        shown.append(data)
        return types.SimpleNamespace(update=update)

    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(notebook, "INTERVAL", 0.0)
    with notebook.NotebookProgress(verbose=False).task(HOSTILE, 4) as advance:
        advance(1, "<b>one</b>")
        advance(1, "a line\n")
    assert [re.findall('value="([0-9.]+)"', data["text/html"]) for data in shown] == [["0.000"], ["0.250"], ["0.500"], []]
    assert "<img" not in shown[1]["text/html"] and "&lt;b&gt;one" in shown[1]["text/html"]
    assert shown[-1] == {"text/plain": "", "text/html": ""}
    assert capfd.readouterr() == ("", "a line\n")
