"""Shared fixtures: a few real digits, a checkpoint trained on them, and a bundle of it. Copy them before changing them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

IMAGES_PER_CLASS = 12

# as many processes test as there are cores: a second thread in each would wait for the others
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell starts what runs behind it with Ctrl-C ignored, which every command under test would inherit
signal.signal(signal.SIGINT, signal.default_int_handler)

# no test fails because the machine is busy
settings.register_profile("tlexport", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tlexport")


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that the user has cached is read, and nothing is added to it."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLX_CACHE", str(folder / "tlexport"))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setattr("tlexport.optimize.latency_search.SECONDS", 1.0)  # exports here want a choice of blocks in float, not the best one
        yield folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For files that compute with small networks, where a second thread is mostly waited for."""
    from tlexport.network import cpu_threads

    with cpu_threads(1):
        yield


@pytest.fixture(scope="session")
def digits(caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class folder with the first handwritten digits of each class."""
    from tlexport.data.demo import digits_folder
    from tlexport.storage.cache import cache_folder

    everything, few = digits_folder(cache_folder() / "digits"), tmp_path_factory.mktemp("data") / "digits"
    for source in sorted(folder for folder in everything.iterdir() if folder.is_dir()):
        (few / source.name).mkdir(parents=True)
        for image in sorted(source.iterdir())[:IMAGES_PER_CLASS]:
            shutil.copy(image, few / source.name)
    return few


@pytest.fixture(scope="session")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Exports in this process convert equal networks once, and share the conversions with the other processes of this run."""
    from conversions import conversions_by, keeping

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "conversions"
    folder.mkdir(exist_ok=True)
    with conversions_by(keeping(folder)):
        yield


@pytest.fixture(scope="session")
def checkpoint(digits: Path, conversions: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory: the embedded trunk, a classifier trained on the digits."""
    from tlexport.api.finetune import FinetuneSettings, finetune
    from tlexport.recipe import Recipe

    recipe = Recipe(weights="embedded", strategy="head", epochs=15, val_fraction=0.25)
    return finetune(str(digits), recipe, tmp_path_factory.mktemp("runs") / "digits", FinetuneSettings(device="cpu", threads=1)).path


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for this kind of machine, with every precision that it takes."""
    from tlexport.api.export import export
    from tlexport.hardware.target import resolve
    from tlexport.plan import Constraints

    return export(checkpoint, resolve("cpu-x86"), Constraints(), tmp_path_factory.mktemp("bundles") / "digits").path
