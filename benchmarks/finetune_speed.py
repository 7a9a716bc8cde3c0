"""Wall time to a finished checkpoint, accuracy and peak memory of ``tlx finetune``, PyTorch's tutorial loop, and fastai.

All contenders get the same images (benchmarks/finetune_images.py), initial weights, epochs, image size and batch size. Each runs in its own
process, which is timed from start to exit::

    python benchmarks/finetune_speed.py --images 500 --mode frozen
    python benchmarks/finetune_speed.py --images 5000 --mode last2 --peer-python PYTHON_THAT_HAS_FASTAI

``tlx`` starts with an empty cache each time. Before the runs, every library is imported and every image read once, so that the system's
file cache is warm for all. Results go to benchmarks/results/finetune_speed.json, one entry per mode, number of images, backbone and
device, and to a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from finetune_peers import Job, Outcome

from tlexport.bench.environment import describe_machine
from tlexport.checkpoint import HISTORY

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "finetune_speed.json"
CONTENDERS = ("tlx", "plain", "fastai")
STRATEGIES = {"frozen": "head", "last2": "partial", "full": "full"}  # each mode's strategy in tlx
TRAINED_STAGES = {"frozen": 1, "last2": 3}  # counted from the head down; full: all
RUN_TLX = "import sys; from tlexport.cli.main import run; sys.exit(run(sys.argv[1:]))"
WARM_UP = {"tlx": "import tlexport.api.finetune", "plain": "import torchvision", "fastai": "import fastai.vision.all"}
VERSIONS = "; import json; from importlib.metadata import version; print(json.dumps({name: version(name) for name in %s}))"
LIBRARIES = ("torch", "torchvision", "pillow")
FASTAI_LIBRARIES = ("fastai", "fastcore", "fastprogress", *LIBRARIES)
WHAT = "fine-tuning: wall time of the whole process (s), validation top-1 (0..1), peak memory; a list holds the repeats"
SAMPLES_PER_S = 20  # of memory


@dataclass
class Peak:
    """Peak memory of a process and its children."""

    rss: int = 0  # bytes; sum of resident sizes, with shared pages counted in each process that maps them
    pss: int = 0  # bytes; a page shared by n processes counts 1/n in each. 0 on systems without it (all but Linux)

    def watch(self, pid: int, done: threading.Event) -> None:
        """Sample until ``done``. PSS is slow to read: only when the resident size has grown by 2 %, or every two seconds."""
        looked_at, again = 0.0, 0.0
        while not done.wait(1 / SAMPLES_PER_S):
            try:
                root = psutil.Process(pid)
                processes = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            rss = sum(self._of(process, "memory_info", "rss") for process in processes)
            self.rss = max(self.rss, rss)
            if rss > 1.02 * looked_at or time.perf_counter() > again:
                looked_at, again = max(rss, looked_at), time.perf_counter() + 2
                self.pss = max(self.pss, sum(self._of(process, "memory_full_info", "pss") for process in processes))

    @staticmethod
    def _of(process: psutil.Process, call: str, field: str) -> int:
        try:
            return int(getattr(getattr(process, call)(), field, 0))
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # a worker that has just ended
            return 0


def timed(command: list[str], env: dict[str, str], folder: Path) -> tuple[float, Peak, str]:
    """Run a command; return seconds, memory and standard output. Exits with the log if the command fails."""
    peak, done = Peak(), threading.Event()
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=env, cwd=folder)
        watcher = threading.Thread(target=peak.watch, args=(process.pid, done))
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
    if code != 0:
        log = (folder / "stderr").read_text(encoding="utf-8").splitlines()[-20:]
        sys.exit("\n".join([f"{' '.join(command)} ended with exit code {code}", *log]))
    return seconds, peak, (folder / "stdout").read_text(encoding="utf-8")


def tlx(job: Job, stages: list[str], folder: Path) -> tuple[float, Peak, Outcome]:
    """``tlx finetune`` from this checkout."""
    options: dict[str, object] = {
        "--backbone": job.backbone,
        "--weights": job.weights,
        "--image-size": job.size,
        "--epochs": job.epochs,
        "--patience": job.epochs,  # never stop early: all contenders run all epochs
        "--batch-size": job.batch_size,
        "--device": job.device,
        "--seed": job.seed,
        "--out": folder / "checkpoint",
        "--strategy": STRATEGIES[job.mode],
    }
    if job.mode == "last2":
        options["--freeze"] = stages[-TRAINED_STAGES["last2"] - 1]
    command = [sys.executable, "-c", RUN_TLX, "finetune", job.data, *(str(word) for pair in options.items() for word in pair), "--json"]
    env = os.environ | {"PYTHONPATH": str(HERE.parent), "TLX_CACHE": str(folder / "cache")}
    seconds, peak, stdout = timed(command, env, folder)
    metrics = json.loads(stdout)["metrics"]
    lines = (folder / "checkpoint" / HISTORY).read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines]
    speed = statistics.harmonic_mean(epoch["images_per_s"] for epoch in epochs)  # all epochs have the same number of images
    share = statistics.fmean(epoch["wait_share"] for epoch in epochs)
    return seconds, peak, Outcome(metrics["val_top1"], int(metrics["val_images"]), len(lines), round(speed, 1), round(share, 4))


def peer(name: str, python: str, job: Job, folder: Path) -> tuple[float, Peak, Outcome]:
    """Run one of the peers in finetune_peers.py."""
    (folder / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
    command = [python, str(HERE / "finetune_peers.py"), name, str(folder / "job.json")]
    seconds, peak, _ = timed(command, dict(os.environ), folder)
    return seconds, peak, Outcome(**json.loads((folder / "outcome.json").read_text(encoding="utf-8")))


def warm_up(name: str, python: str) -> tuple[dict[str, str], str]:
    """Import a contender's libraries once; return their versions, or the reason why the import failed."""
    code = WARM_UP[name] + VERSIONS % repr(FASTAI_LIBRARIES if name == "fastai" else LIBRARIES)
    env = os.environ | {"PYTHONPATH": str(HERE.parent)} if name == "tlx" else dict(os.environ)
    done = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {}, done.stderr.strip().rpartition("\n")[2]
    return json.loads(done.stdout.splitlines()[-1]), ""


def make_job(arguments: argparse.Namespace, folder: Path) -> tuple[Job, list[str], str]:
    """Prepare images, weights and job; return them with the backbone's stage names and a description of the weights.

    Runs in a separate process that ends before the measurement. Otherwise its libraries would be shared with the contenders and reduce
    their PSS.
    """
    import torch
    from finetune_images import CLASSES, images_folder

    from tlexport.recipe import Recipe
    from tlexport.train.request import embedded_backbones
    from tlexport.train.weights import initial_network, preprocess_for

    data = images_folder(arguments.images, arguments.seed)
    source = "embedded" if arguments.backbone in embedded_backbones() else "none"
    torch.manual_seed(arguments.seed)
    network = initial_network(Recipe(backbone=arguments.backbone, weights=source), CLASSES)
    weights = folder / "initial.pth"
    torch.save(network.net.state_dict(), weights)
    recipe = Recipe(backbone=arguments.backbone, weights=str(weights), image_size=arguments.image_size)
    preprocess = preprocess_for(recipe)
    stages = list(network.stages.values())[-TRAINED_STAGES.get(arguments.mode, len(network.stages)) :]
    trained = {id(parameter) for stage in stages for parameter in stage.parameters()}
    job = Job(
        data=str(data),
        weights=str(weights),
        trained=[name for name, parameter in network.net.named_parameters() if id(parameter) in trained],
        mode=arguments.mode,
        backbone=arguments.backbone,
        size=preprocess.size,
        resize=preprocess.resize,
        mean=list(preprocess.mean),
        std=list(preprocess.std),
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        device=arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        seed=arguments.seed,
        out="",
    )
    return job, list(network.stages), {"embedded": "embedded trunk, random classifier", "none": "random"}[source]


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """One entry of the results."""
    rows: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    pythons = {name: arguments.peer_python if name == "fastai" else sys.executable for name in arguments.only}
    for name in arguments.only:
        versions, reason = warm_up(name, pythons[name])
        if reason:
            skipped[name] = reason
            print(f"{name} is skipped: {pythons[name]} cannot import it: {reason}")
        else:
            rows[name] = {"versions": versions}
    with tempfile.TemporaryDirectory() as work:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            job, stages, weights = pool.submit(make_job, arguments, Path(work)).result()
        parts = {part: sum(len(file.read_bytes()) > 0 for file in Path(job.data).glob(f"{part}/*/*")) for part in ("train", "val")}
        environment = describe_machine(job.device).model_dump()
        for repeat in range(arguments.repeat):
            for name, row in rows.items():  # in turn, so that a slow period of the machine affects all
                folder = Path(work) / f"{name}-{repeat}"
                folder.mkdir()
                this = Job(**asdict(job) | {"seed": arguments.seed + repeat, "out": str(folder)})
                seconds, peak, outcome = tlx(this, stages, folder) if name == "tlx" else peer(name, pythons[name], this, folder)
                _check(name, outcome, parts["val"], arguments.epochs)
                _add(row, seconds, peak, outcome, parts["train"])
                print(f"{name}: {seconds:.1f} s, top-1 {100 * outcome.top1:.1f} %, {peak.rss / 1e6:.0f} MB", flush=True)
    asked = ("mode", "images", "backbone", "epochs", "image_size", "batch_size", "workers", "seed")
    return {key: getattr(arguments, key) for key in asked} | {
        "device": job.device,
        "train_images": parts["train"],
        "val_images": parts["val"],
        "weights": weights,
        "contenders": rows,
        "skipped": skipped,
        "environment": environment,
    }


def _check(name: str, outcome: Outcome, val_images: int, epochs: int) -> None:
    """Check that all contenders did the same work."""
    if (outcome.val_images, outcome.epochs) != (val_images, epochs):
        sys.exit(f"{name} ran {outcome.epochs} epochs and validated {outcome.val_images} images; expected {epochs} and {val_images}")


def _add(row: dict[str, Any], seconds: float, peak: Peak, outcome: Outcome, train_images: int) -> None:
    """Append one run's figures to a contender's lists."""
    figures: dict[str, float] = {
        "wall_s": round(seconds, 3),
        "top1": outcome.top1,
        "peak_rss_bytes": peak.rss,
        "peak_pss_bytes": peak.pss,
        "images_per_s": round(train_images * outcome.epochs / seconds, 1),  # of the whole process, including start-up and validation
    }
    figures |= {key: value for key in ("train_images_per_s", "wait_share") if (value := getattr(outcome, key)) is not None}
    for key, value in figures.items():
        row.setdefault(key, []).append(value)


def keep(entry: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Add an entry to the results file, replacing an earlier one of its kind; return all entries."""

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(entry[name] for name in ("device", "backbone", "mode", "images"))

    runs = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    runs = sorted([*(run for run in runs if key(run) != key(entry)), entry], key=key)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"what": WHAT, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    return runs


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """One panel per entry, one bar per contender: median wall time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 + 1.3 * len(runs)), layout="constrained")
    for axes, run in zip(figure.subplots(len(runs), squeeze=False)[:, 0], runs, strict=True):
        for position, (name, row) in enumerate(run["contenders"].items()):
            seconds = statistics.median(row["wall_s"])
            bar = axes.barh(position, seconds, color=f"C{CONTENDERS.index(name)}")
            axes.bar_label(bar, [f" {seconds:.3g} s, top-1 {100 * statistics.fmean(row['top1']):.1f} %"])
        axes.set_yticks(range(len(run["contenders"])), list(run["contenders"]))
        axes.invert_yaxis()
        axes.margins(x=0.4)
        axes.set_title("{mode}, {images} images, {epochs} epochs, {backbone}, {device}".format_map(run), fontsize="medium")
    axes.set_xlabel("wall time of the whole process, s")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="training and validation images; a fifth are for validation")
    parser.add_argument("--mode", choices=["frozen", "last2", "full"], default="frozen")
    parser.add_argument("--epochs", type=int, default=20, help="at least 2")
    parser.add_argument("--backbone", default="mobilenet_v3_small")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="the peers' image-loading processes")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a CUDA GPU if there is one")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(CONTENDERS), help="such as tlx,plain")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each contender, with seeds SEED, SEED + 1, ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-python", default=sys.executable, help="Python interpreter with fastai")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file; the plot is written beside it")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - set(CONTENDERS):
        parser.error(f"--only takes {','.join(CONTENDERS)}, not {','.join(unknown)}")
    if arguments.images < 50 or arguments.epochs < 2:
        parser.error("at least 50 images (a validation image of each class) and 2 epochs (fastai's fine_tune begins with one of the head)")
    runs = keep(compare(arguments), arguments.result)
    plot(runs, arguments.result.with_suffix(".png"))
    print(f"wrote {arguments.result} and {arguments.result.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
