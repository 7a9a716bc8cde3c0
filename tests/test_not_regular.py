"""FIFOs and device files, which may block forever: every command refuses them by name wherever it reads a file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from commands import here
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tlexport.bundle.manifest import MANIFEST, SIGNATURE
from tlexport.bundle.signature import check_signature
from tlexport.errors import VerificationFailed

KINDS = ("/dev/zero", "fifo", "folder")


def put(path: Path, kind: str) -> Path:
    """Replace a file with one that is not regular."""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors", "dataset.json"])
def test_a_file_of_a_checkpoint(checkpoint: Path, tmp_path: Path, name: str, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    put(copy / name, kind)
    out = tmp_path / "out"
    commands: list[list[str | Path]] = [["export", copy, "--target", "cpu-x86", "--precision", "fp32", "--out", out]]
    if name != "dataset.json":  # used by training and export only
        commands += [["predict", copy, "image.png", "--device", "cpu"], ["evaluate", copy, tmp_path, "--device", "cpu"]]
    for command in commands:
        ended = here(capfd, *command)
        assert ended.code == 2, ended.err
        assert name in ended.err
        assert not out.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", ["--key", "--sign", "--recipe", "--against", "--target", "--weights", "image"])
def test_a_file_that_an_option_names(
    checkpoint: Path, bundle: Path, tmp_path: Path, option: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = put(tmp_path / "odd.toml", kind)
    out = tmp_path / "out"
    command: list[str | Path] = {
        "--key": ["verify", bundle, "--key", odd],
        "--sign": ["export", checkpoint, "--target", "cpu-x86", "--precision", "fp32", "--out", out, "--sign", odd],
        "--recipe": ["finetune", "demo:digits", "--recipe", odd, "--out", out],
        "--weights": ["finetune", "demo:digits", "--weights", odd, "--out", out],
        "--against": ["bench", bundle, "--against", odd],
        "--target": ["export", checkpoint, "--target", odd, "--out", out],
        "image": ["predict", bundle, odd, "--device", "cpu"],
    }[option]
    ended = here(capfd, *command)
    assert ended.code == 2, ended.err
    assert "odd.toml" in ended.out + ended.err
    assert not out.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
def test_what_was_signed(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / MANIFEST).touch()
    (tmp_path / SIGNATURE).touch()
    odd = put(tmp_path / name, kind)
    with pytest.raises(VerificationFailed, match=str(odd)):
        check_signature(tmp_path, Ed25519PrivateKey.generate().public_key())
