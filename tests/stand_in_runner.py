"""A stand-in for a bundle's ``run.py``: the same command line, JSON and exit codes, on a board prepared by a test.

It records its request and its environment in the folder $TLX_BOARD. A test may put a file ``VERB.json`` there: ``wait`` makes that verb
wait until it is stopped; ``err``, ``out`` and ``code`` are its outcome otherwise.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

BOARD = Path(os.environ["TLX_BOARD"])
HERE = Path(__file__).resolve().parent


def main() -> None:
    arguments = parse()
    found = sorted(file.relative_to(HERE.parent).as_posix() for file in HERE.parent.rglob("*") if file.is_file())
    with (BOARD / "journal").open("a") as journal:
        journal.write(json.dumps({"asked": sys.argv[1:], "verb": arguments.verb, "found": found, "pid": os.getpid()}) + "\n")
    told = BOARD / (arguments.verb + ".json")
    if told.exists():
        misbehave(json.loads(told.read_text()))
    manifest = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    print(f"note: {arguments.verb} begins", file=sys.stderr)
    print(json.dumps(VERBS[arguments.verb](manifest, arguments)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=sorted(VERBS))
    parser.add_argument("images", nargs="*")
    parser.add_argument("--json", action="store_true", required=True)
    for name, kind in {
        "precision": str,
        "runtime": str,
        "device": str,
        "threads": int,
        "batch": int,
        "runs": int,
        "seconds": float,
    }.items():
        parser.add_argument("--" + name, type=kind)
    return parser.parse_args()


def misbehave(told: "dict[str, object]") -> None:
    if told.get("wait"):
        # what a runner starts has to end with it
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (BOARD / "waiting").write_text(json.dumps([os.getpid(), child.pid]))
        time.sleep(600)
    print(told.get("err", ""), file=sys.stderr)
    print(told.get("out", ""))
    sys.stdout.flush()
    if told["code"] == "killed":
        os.kill(os.getpid(), 9)
    sys.exit(told["code"])


def build(manifest: "dict[str, object]", arguments: argparse.Namespace) -> object:
    return {"engine": "model.int8.engine", "built": True, "reason": "there was none", "seconds": 0.1}


def verify(manifest: "dict[str, object]", arguments: argparse.Namespace) -> object:
    checks = []
    for name, expected in manifest["files"].items():
        found = hashlib.sha256((HERE / name).read_bytes()).hexdigest() if (HERE / name).is_file() else "missing"
        checks.append({"name": "hash " + name, "ok": found == expected, "detail": "" if found == expected else found})
    if not all(check["ok"] for check in checks):
        print(json.dumps({"bundle": str(HERE), "ok": False, "checks": checks}))
        print("error: a check failed\nhint: copy it again", file=sys.stderr)
        sys.exit(5)
    return {"bundle": str(HERE), "ok": True, "checks": checks}


def predict(manifest: "dict[str, object]", arguments: argparse.Namespace) -> object:
    """A class derived from the image's bytes, which identifies the image without recognising it."""
    classes = manifest["classes"]
    answers = []
    for image in arguments.images:
        chosen = classes[sum((Path.cwd() / image).read_bytes()) % len(classes)]
        answers.append(
            {"path": image, "class": chosen, "probability": 1.0, "probabilities": {name: float(name == chosen) for name in classes}}
        )
    return answers


def bench(manifest: "dict[str, object]", arguments: argparse.Namespace) -> object:
    """Times the hashing of each model, and reports the environment of a board."""
    rows = []
    for model in manifest["models"]:
        if (
            arguments.precision == "all"
            or model["artifact"]["precision"] == arguments.precision
            or (model["chosen"] and not arguments.precision)
        ):
            data, times = (HERE / model["file"]).read_bytes(), []
            for _ in range(arguments.runs):
                started = time.perf_counter()
                hashlib.sha256(data).digest()
                times.append(int((time.perf_counter() - started) * 1e9))
            rows.append(row(model, arguments, times, len(data)))
    return rows


def row(model: "dict[str, object]", arguments: argparse.Namespace, times: "list[int]", size: int) -> "dict[str, object]":
    return {
        "format": 1,
        "what": str(HERE / model["file"]),
        "artifact_sha256": model["artifact"]["sha256"],
        "precision": model["artifact"]["precision"],
        "runtime": "onnxruntime",
        "provider": "CPUExecutionProvider",
        "threads": arguments.threads or 1,
        "batch": arguments.batch,
        "warmup_runs": 0,
        "latencies_ns": times,
        "load_ns": 1000,
        "peak_memory_bytes": size,
        "size_bytes": size,
        "latency_ms": {"p50": sorted(times)[len(times) // 2] / 1e6, "n": len(times)},
        "environment": {
            "machine": platform.machine(),
            "system": platform.platform(),
            "cpu": "the board's own processor",
            "cores": 1,
            "governor": None,
            "load_1min": None,
            "memory_bytes": 4000000000,
            "python": platform.python_version(),
            "versions": {"onnxruntime": "0"},
        },
        "board": {"module": "a stand-in"},
    }


VERBS = {"build": build, "verify": verify, "predict": predict, "bench": bench}

if __name__ == "__main__":
    main()
