"""Signed bundles: only the key's owner can make them, and openssl agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import fix_hashes, read, rewrite, tiny_bundle
from commands import ROOT, here
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat

from tlexport.api.verify import verify
from tlexport.bundle.archive import pack
from tlexport.bundle.manifest import MANIFEST, SIGNATURE, read_manifest
from tlexport.bundle.signature import read_private_key, read_public_key, sign
from tlexport.errors import InvalidFile, MissingDependency
from tlexport.loading.open_bundle import open_bundle


def private_pem(key: ed25519.Ed25519PrivateKey, password: bytes | None = None) -> bytes:
    how = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def public_pem(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public one."""
    key, private, public = ed25519.Ed25519PrivateKey.generate(), tmp_path / "key.pem", tmp_path / "pub.pem"
    private.write_bytes(private_pem(key))
    public.write_bytes(public_pem(key))
    return private, public


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    bundle = tiny_bundle(tmp_path / "colours")
    sign(bundle, read_private_key(keys[0]))
    return bundle


def failed(bundle: Path, key: Path) -> list[str]:
    return [check.name for check in verify(bundle, device="cpu", threads=1, key=key) if not check.ok]


def test_a_signed_bundle_is_whoever_s_key_it_is(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    assert len((signed / SIGNATURE).read_bytes()) == 64
    assert SIGNATURE not in read_manifest(signed).files
    [first, *_] = verify(signed, device="cpu", threads=1, key=keys[1])
    assert (first.name, first.ok) == ("signature", True)
    assert failed(signed, keys[1]) == []
    assert all(check.ok for check in verify(signed, device="cpu", threads=1)), "and is a bundle without a key too"
    other = tmp_path / "other.pem"
    other.write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate()))
    assert failed(signed, other) == ["signature"]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_signature_is_packed_too(signed: Path, keys: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    pack(signed, tmp_path / f"a.{kind}")
    assert failed(tmp_path / f"a.{kind}", keys[1]) == []


def test_openssl_reads_the_keys_and_the_signature(tmp_path: Path) -> None:
    """Keys made as in the documents, and a signature that any program can check."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl command here")

    def run(*arguments: str | Path) -> None:
        subprocess.run([openssl, *map(str, arguments)], check=True, capture_output=True, cwd=tmp_path)

    run("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    run("pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem")
    bundle = tiny_bundle(tmp_path / "colours")
    sign(bundle, read_private_key(tmp_path / "key.pem"))
    assert failed(bundle, tmp_path / "pub.pem") == []
    run("pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-rawin", "-in", bundle / MANIFEST, "-sigfile", bundle / SIGNATURE)


# --- forged -----------------------------------------------------------------------------------------------------------


def test_a_manifest_that_was_changed(signed: Path, keys: tuple[Path, Path]) -> None:
    rewrite(signed, read(signed))  # not a word of it, only how it is written
    assert failed(signed, keys[1]) == ["signature"]
    assert failed_without_key(signed) == []


def failed_without_key(bundle: Path) -> list[str]:
    return [check.name for check in verify(bundle, device="cpu", threads=1) if not check.ok]


def test_a_model_that_was_changed_with_its_hash(signed: Path, keys: tuple[Path, Path]) -> None:
    model = signed / "model.fp32.onnx"
    shutil.copy(signed / "labels.txt", model)
    assert failed(signed, keys[1]) == [f"hash {model.name}"], "the manifest is true, and the model is not what it says"
    fix_hashes(signed)
    assert failed(signed, keys[1]) == ["signature"]


@pytest.mark.parametrize("content", [None, b"", bytes(64), bytes(63), bytes(1000)])
def test_what_is_no_signature(signed: Path, keys: tuple[Path, Path], content: bytes | None) -> None:
    if content is None:
        (signed / SIGNATURE).unlink()
    else:
        (signed / SIGNATURE).write_bytes(content)
    [check] = verify(signed, device="cpu", key=keys[1])  # and nothing else is looked at
    assert (check.name, check.ok) == ("signature", False)
    assert ("not signed" in check.detail) == (content is None)


def test_a_longer_signature_is_none(signed: Path, keys: tuple[Path, Path]) -> None:
    with (signed / SIGNATURE).open("ab") as stream:
        stream.write(b"\n")
    assert failed(signed, keys[1]) == ["signature"]


# --- keys -------------------------------------------------------------------------------------------------------------

OTHER = {
    "X25519": x25519.X25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
    "EllipticCurve": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 1024),
}


@pytest.mark.filterwarnings("ignore:RSA key sizes")
@pytest.mark.parametrize("kind", OTHER)
def test_a_key_of_another_kind(tmp_path: Path, kind: str) -> None:
    key, path = OTHER[kind](), tmp_path / "key.pem"
    path.write_bytes(private_pem(key))  # type: ignore[arg-type] - it is of another kind
    with pytest.raises(InvalidFile, match="Ed25519 was expected") as error:
        read_private_key(path)
    assert "openssl genpkey -algorithm ed25519" in error.value.hint
    path.write_bytes(public_pem(key))  # type: ignore[arg-type]
    with pytest.raises(InvalidFile, match="Ed25519 was expected"):
        read_public_key(path)


def test_an_encrypted_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(private_pem(ed25519.Ed25519PrivateKey.generate(), b"secret"))
    with pytest.raises(InvalidFile, match="encrypted") as error:
        read_private_key(path)
    assert "openssl pkey" in error.value.hint


def test_keys_that_were_mixed_up(keys: tuple[Path, Path]) -> None:
    private, public = keys
    with pytest.raises(InvalidFile, match="is a private key") as error:
        read_public_key(private)
    assert "-pubout" in error.value.hint
    with pytest.raises(InvalidFile, match="not a private key"):
        read_private_key(public)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", bytes(200_000)])
def test_what_is_no_key(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    for read_key in (read_private_key, read_public_key):
        with pytest.raises(InvalidFile, match=str(path)) as error:
            read_key(path)
        assert "openssl" in error.value.hint


def test_without_the_library(keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for read_key, path in zip((read_private_key, read_public_key), keys, strict=True):
        with pytest.raises(MissingDependency) as error:
            read_key(path)
        assert "tlexport[sign]" in error.value.hint


# --- as users type it -------------------------------------------------------------------------------------------------


def test_the_commands_of_the_document_run(
    checkpoint: Path, bundle: Path, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its order; the keys are made here, since there may be no openssl."""
    monkeypatch.chdir(tmp_path)
    for name, there in (("checkpoint", checkpoint), ("bundle", bundle)):
        (tmp_path / "tlx-demo").mkdir(exist_ok=True)
        (tmp_path / "tlx-demo" / name).symlink_to(there)
    (tmp_path / "tlx-demo/digits/7").mkdir(parents=True)
    shutil.copy(next((digits / "7").iterdir()), tmp_path / "tlx-demo/digits/7/0007.png")
    key = ed25519.Ed25519PrivateKey.generate()
    Path("key.pem").write_bytes(private_pem(key))
    Path("pub.pem").write_bytes(public_pem(key))
    text = (ROOT / "docs/bundle-format.md").read_text(encoding="utf-8")
    commands = [line.split()[1:] for line in text.splitlines() if line.startswith("    tlx ")]
    assert {command[0] for command in commands} == {"export", "verify", "predict"}
    for command in commands:
        ended = here(capfd, *command, "--threads", "1", "--json")
        assert ended.code == 0, (command, ended.err)
        if command[0] == "export":
            said = json.loads(ended.out)
            [model] = said["models"]
            low, high = model["top1_interval"]
            assert 0 <= low < model["top1"] <= high <= 1
            assert Path(said["bundle"]).exists()
    first, second = (read_manifest(open_bundle(Path(name))) for name in ("digits.zip", "signed.tar.gz"))
    assert first.files["model.fp32.onnx"] == second.files["model.fp32.onnx"], "the same checkpoint gives the same model"
    Path("key.pem").write_text("no key", encoding="utf-8")
    refused = here(capfd, "export", checkpoint, "--target", "cpu-x86", "--sign", "key.pem", "--out", "two.zip")
    assert (refused.code, Path("two.zip").exists()) == (2, False), "before anything is made"


def test_exit_codes_of_verify(signed: Path, keys: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    assert here(capfd, "verify", signed, "--key", keys[1], "--threads", "1").code == 0
    assert here(capfd, "verify", signed, "--key", keys[0]).code == 2
    (signed / SIGNATURE).unlink()
    ended = here(capfd, "verify", signed, "--key", keys[1])
    assert (ended.code, "not signed" in ended.err) == (5, True)


def test_the_library_is_an_extra_and_the_tests_have_it() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = {line.split(" = ")[0] for line in text.splitlines() if "cryptography" in line}
    assert extras == {"sign", "test"}
