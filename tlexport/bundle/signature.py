"""Signatures of bundles: Ed25519 over the bytes of the manifest, which holds the hash of every other file.

The signature is the 64 bytes of RFC 8032, so other programs can check it too. Only signing and checking need the library.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tlexport.bundle.device_errors import as_ours
from tlexport.bundle.manifest import LARGEST_MANIFEST, MANIFEST, SIGNATURE
from tlexport.device.regular_file import read_regular
from tlexport.errors import InvalidFile, MissingDependency, VerificationFailed
from tlexport.storage.untrusted import regular_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LARGEST_KEY = 64 * 1024  # bytes of a PEM file; one of Ed25519 has 119


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """A private key from a PEM file (PKCS #8), as ``openssl genpkey -algorithm ed25519`` writes it.

    Raises:
        InvalidFile: missing, encrypted, or not such a key.
        MissingDependency: the library is not installed.
    """
    _expect_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    make = f"make one with: openssl genpkey -algorithm ed25519 -out {path.name}"
    try:
        key = load_pem_private_key(_pem(path, make), password=None)
    except TypeError:  # raised when a password is needed
        raise InvalidFile(
            f"{path} is an encrypted key, and no password is asked for",
            f"decrypt it into a place that only you can read: openssl pkey -in {path}",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidFile(f"{path} is not a private key in PEM (PKCS #8)", make) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidFile(f"{path} is a key of another kind ({type(key).__name__}); Ed25519 was expected", make)
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """A public key from a PEM file (SubjectPublicKeyInfo), as ``openssl pkey -pubout`` writes it.

    Raises:
        InvalidFile: missing, a private key, or not such a key.
        MissingDependency: the library is not installed.
    """
    _expect_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    make = "derive it from the private key: openssl pkey -in KEY -pubout -out PUB"
    content = _pem(path, make)
    if b"PRIVATE KEY-----" in content:
        raise InvalidFile(f"{path} is a private key; the public key was expected", make)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidFile(f"{path} is not a public key in PEM", make) from None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidFile(f"{path} is a key of another kind ({type(key).__name__}); Ed25519 was expected", make)
    return key


def sign(folder: Path, key: Ed25519PrivateKey) -> None:
    """Write the signature of a bundle's manifest beside it."""
    (folder / SIGNATURE).write_bytes(key.sign((folder / MANIFEST).read_bytes()))


def check_signature(folder: Path, key: Ed25519PublicKey) -> None:
    """Check the signature of a bundle's manifest. The files are compared with the manifest elsewhere.

    Raises:
        VerificationFailed: not signed, signed with another key, or the manifest was changed later.
    """
    from cryptography.exceptions import InvalidSignature

    signature, manifest = folder / SIGNATURE, folder / MANIFEST
    if not os.path.lexists(signature):
        raise VerificationFailed(f"{folder} is not signed: it holds no {SIGNATURE}", "export it with --sign KEY, or leave out --key")
    try:
        with as_ours():
            found, signed = read_regular(signature, LARGEST_KEY), read_regular(manifest, LARGEST_MANIFEST)
    except InvalidFile as error:
        raise VerificationFailed(error.message, "get the bundle again from its author") from None
    try:
        key.verify(found, signed)
    except InvalidSignature:
        raise VerificationFailed(
            f"{signature} is not this key's signature of {MANIFEST}: another key signed, or the manifest was changed",
            "get the bundle and the key again from their author",
        ) from None


def _pem(path: Path, hint: str) -> bytes:
    with regular_file(path, "a key", hint) as stream:
        try:
            return stream.read(LARGEST_KEY)
        except OSError as error:
            raise InvalidFile(f"the key {path} cannot be read: {error.strerror or error}", hint) from None


def _expect_library() -> None:
    try:
        import cryptography  # noqa: F401 - whether it is there
    except ImportError:
        raise MissingDependency(
            "signing and checking signatures needs the package cryptography", "install it with: pip install 'tlexport[sign]'"
        ) from None
