"""The commands of :mod:`.cli`: each takes a bundle and the options and returns the text or JSON to print."""

import contextlib
import io
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Optional

from . import choice as choices
from . import golden
from .errors import DeviceError, InvalidFile, Unsupported, VerificationFailed
from .inputs import image
from .inputs.image_files import named_images
from .lifeline import bound
from .model import Model, open_model
from .terminal import printable, say

if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

    from .manifest import Bundle


class Result(NamedTuple):
    """Result of a command."""

    json: "Any"
    text: str
    error: Optional[DeviceError] = None  # raised after the result is printed


def info(bundle: "Bundle", options: "Any") -> Result:
    """Describe the bundle, the software of this device, and the runtime that would run the bundle."""
    data, decoder = bundle.data, image.decoder()
    keys = ("precision", "size_bytes", "opset")
    found = {
        "bundle": str(bundle.folder),
        "name": data["name"],
        "target": data["target"],
        "classes": bundle.classes,
        "preprocess": bundle.preprocess,
        "models": [
            dict({key: model["artifact"][key] for key in keys}, chosen=model["chosen"], top1=model.get("top1")) for model in bundle.models
        ],
        "here": {"python": platform.python_version(), "machine": platform.machine(), "decoder": decoder or None, **_runtimes()},
    }  # type: Dict[str, Any]
    found["would_run"], would = _would_run(bundle, options)
    here = ", ".join(f"{name} {value}" for name, value in found["here"].items() if value)
    lines = [f"bundle    {data['name']} for {data['target']}, {len(bundle.classes)} classes, {bundle.preprocess['size']} pixels", "models"]
    for m in found["models"]:
        lines.append(f"  {m['precision']}: {m['size_bytes'] / 1e6:.2f} MB, opset {m['opset']}{', chosen' if m['chosen'] else ''}")
    lines.append(f"here      {here}{'' if decoder else ', no decoder of images (Pillow or OpenCV)'}")
    return Result(found, "\n".join([*lines, f"would run {would}"]))


def _would_run(bundle: "Bundle", options: "Any") -> "Tuple[Optional[Dict[str, str]], str]":
    """Runtime, device and reasons, as JSON data and as text."""
    try:
        choice = choices.choose(bundle, options.runtime, options.device)
        better = choices.better(bundle, choice)
    except DeviceError as error:
        return None, f"nothing: {error.message}\n          {error.hint}"
    text = f"{choice.runtime} on {choice.device}: {choice.reason}" + (f"\n          {better}" if better else "")
    return dict(choice._asdict(), better=better), text


def _runtimes() -> "Dict[str, Optional[str]]":
    from .runtimes import onnx_session

    found = {"onnxruntime": None, "tensorrt": None, "trtexec": None}  # type: Dict[str, Optional[str]]
    with contextlib.suppress(DeviceError):
        found["onnxruntime"] = str(onnx_session.load().__version__)
    if not choices.why_no_bindings():
        found["tensorrt"] = str(sys.modules["tensorrt"].__version__)
    if not choices.why_no_trtexec():
        found["trtexec"] = "here"
    return found


def build(bundle: "Bundle", options: "Any") -> Result:
    """Build the engine of a model, or reuse a compatible one."""
    from .runtimes import engines

    if not bundle.for_tensorrt and options.runtime == "auto":
        raise Unsupported(
            f"there is nothing to build: the bundle is for {bundle.data['target']}, where ONNX Runtime runs the model directly",
            "python3 run.py predict photo.jpg",
        )
    choice = choices.choose(bundle, options.runtime, options.device)
    if choice.runtime == "onnxruntime":
        raise InvalidFile("ONNX Runtime builds no engine", "leave out --runtime")
    built = engines.ready(bundle, bundle.model(options.precision), choice, say)
    text = f"{built.path}\n" + (f"built in {built.seconds:.0f} s: {built.reason}" if built.built else built.reason)
    return Result({"engine": str(built.path), "built": built.built, "reason": built.reason, "seconds": round(built.seconds, 1)}, text)


def setup(bundle: "Bundle", options: "Any") -> Result:
    """Prepare a new device: build the engine if the bundle has one, verify, and measure if the verification passes."""
    engine = bundle.for_tensorrt and options.runtime != "onnxruntime"
    built = build(bundle, options) if engine else None
    verified = verify(bundle, options)
    measured = None if verified.error else bench(bundle, options)
    done = [result for result in (built, verified, measured) if result]
    found = {"build": built.json if built else None, "verify": verified.json, "bench": measured.json if measured else None}
    return Result(found, "\n".join(result.text for result in done), verified.error)


def verify(bundle: "Bundle", options: "Any") -> Result:
    """Check the hashes, then replay the golden images."""
    choice = _chosen(bundle, options)
    models = _models(bundle, options, choice)
    checks = golden.verify(bundle, models, lambda model: open_model(bundle, model, choice, options.threads))
    failed, verdict = [check for check in checks if not check.ok], golden.verdict(checks)
    found = {"bundle": str(bundle.folder), "ok": not failed, "verdict": verdict, "checks": [check.to_json() for check in checks]}
    lines = [f"{'ok    ' if check.ok else 'FAILED'} {check.name}{': ' if check.detail else ''}{check.detail}" for check in checks]
    error = None
    if failed:
        what = f"{len(failed)} of {len(checks)} checks failed ({verdict}), first: {failed[0].name}: {failed[0].detail}"
        error = VerificationFailed(what, golden.remedy(checks))
    return Result(found, "\n".join([*lines, f"verdict: {verdict}"]), error)


def _models(bundle: "Bundle", options: "Any", choice: "choices.Choice") -> "List[Dict[str, Any]]":
    """The selected models. Default: all models that ONNX Runtime runs, but only the chosen engine, since each takes minutes to build."""
    if options.precision == "all" or (options.precision is None and choice.runtime == "onnxruntime"):
        return bundle.models
    return [bundle.model(options.precision)]


def _chosen(bundle: "Bundle", options: "Any") -> "choices.Choice":
    choice = choices.choose(bundle, options.runtime, options.device)
    say(f"runs on {choice.runtime}, {choice.device}: {choice.reason}")
    better = choices.better(bundle, choice)
    if better:
        say(better)
    return choice


def predict(bundle: "Bundle", options: "Any") -> Result:
    """Classify images. Unusable images are reported after the others are classified, and the command fails."""
    if options.precision == "all":
        raise InvalidFile("predict takes one precision", f"the bundle holds: {', '.join(bundle.precisions)}")
    files = _files(options.images)
    _chosen(bundle, options)
    with Model(bundle.folder, options.precision, options.runtime, options.device, options.threads, options.batch) as model:
        predictions, bad = _classify(model, files, options.raw)
    for reason in bad:
        say(reason)
    error = InvalidFile(f"{len(bad)} of {len(files)} images cannot be used", "leave them out, or save them again as JPEG or PNG")
    if bad and not predictions:
        raise error
    width = max((len(printable(found["path"])) for found in predictions), default=0)
    lines = [f"{printable(p['path']):{width}}  {printable(p['class'])}  {100 * p['probability']:.2f} %" for p in predictions]
    return Result(predictions, "\n".join(lines), error if bad else None)


def _classify(model: Model, files: "List[str]", raw: "Optional[List[int]]") -> "Tuple[List[Dict[str, Any]], List[str]]":
    """Predictions of the usable images in order, and the reason for each unusable image."""

    def ask(names: "List[str]") -> "List[Dict[str, Any]]":
        if raw:
            return [dict(found, path=name) for name in names for found in model.predict_raw(_read(name), *raw)]
        if names == ["-"]:
            return [dict(found, path="-") for found in model.predict([io.BytesIO(_read("-"))])]  # type: ignore[list-item]
        return model.predict(names)

    predictions, bad = [], []  # type: Tuple[List[Dict[str, Any]], List[str]]
    for start in range(0, len(files), model.batch):
        batch = files[start : start + model.batch]
        try:
            predictions += ask(batch)
        except InvalidFile:
            for name in batch:  # the index of the image
                try:
                    predictions += ask([name])
                except InvalidFile as error:
                    bad.append(f"{printable(name)}: {error.message.splitlines()[-1].strip().replace(f'{name}: ', '', 1)}")
    return predictions, bad


def _files(names: "List[str]") -> "List[str]":
    """List the images: files, the images in folders, or "-" for standard input."""
    if "-" in names and len(names) > 1:
        raise InvalidFile("- stands for one image on standard input; other images were named beside it", "name - alone, or files alone")
    try:
        return names if names == ["-"] else named_images(names)
    except FileNotFoundError as error:
        raise InvalidFile(str(error)) from None


def _read(name: str) -> bytes:
    """Bytes of a file or of standard input."""
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidFile(f"{name} cannot be read: {error.strerror or error}") from None


def bench(bundle: "Bundle", options: "Any") -> Result:
    """Measure latency, memory and load time. Several models are measured in separate processes."""
    from . import bench as bench_

    if options.precision == "all":
        return _bench_each(bundle, options)
    choice = _chosen(bundle, options)
    model = bundle.model(options.precision)
    if options.check_only:
        checked = bench_.check_only(bundle, model, choice, options.threads)
        return Result([checked], f"{checked['what']} on {checked['provider']}: {checked['detail']}; nothing was timed")
    settings = bench_.Settings(options.threads, options.batch, options.runs, options.seconds, not options.no_copies)
    measured = bench_.measure(bundle, model, choice, settings)
    return Result([measured], bench_.line(measured))


def _bench_each(bundle: "Bundle", options: "Any") -> Result:
    """Measure each model in its own process, so that load time and peak memory are those of one model."""
    from . import bench as bench_

    shared = ["--json", "--bundle", str(bundle.folder.resolve()), "--runtime", options.runtime, "--device", options.device]
    shared += ["--batch", str(options.batch), "--runs", str(options.runs), "--seconds", str(options.seconds)]
    shared += ["--threads", str(options.threads)] if options.threads else []
    shared += ["--check-only"] if options.check_only else []
    shared += ["--no-copies"] if options.no_copies else []
    package = __name__.rpartition(".")[0]  # "tlx" in a bundle
    root = Path(__file__).resolve().parents[package.count(".") + 1]
    start = ["-m", package] if "." in package else [str(root / "run.py")]  # run.py checks the runner before importing it
    measured = []  # type: List[Dict[str, Any]]
    for precision in bundle.precisions:
        command = [sys.executable, *start, "bench", *shared, "--precision", precision]
        done = subprocess.run(bound(command), stdout=subprocess.PIPE, cwd=str(root), check=False)
        if done.returncode:
            hint = f"alone: python3 run.py bench --precision {precision}"
            raise DeviceError(f"measuring {precision} failed with exit code {done.returncode}", hint)
        measured += json.loads(done.stdout.decode("utf-8"))
    lines = [f"{m['what']}: {m['detail']}" if options.check_only else bench_.line(m) for m in measured]
    return Result(measured, "\n".join(lines))
