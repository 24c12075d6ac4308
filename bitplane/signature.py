"""Detached signatures of files, in the format of OpenSSF Model Signing: who made a file, where a checksum only shows damage.

A signature lies beside its file, as `FILE.sig`: a Sigstore bundle (JSON) around a signed statement of the file's name and
SHA-256 (https://github.com/sigstore/model-transparency). Keys are elliptic (P-256, P-384 or P-521), in PEM. The cryptography is
that of the package `model-signing`, which the extra `sign` installs; nothing here uses a network.
"""

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitplane.errors import BitplaneError
from bitplane.format.text import plain

if TYPE_CHECKING:
    from model_signing.manifest import Manifest

SUFFIX = ".sig"
"""What the name of a signature has after the name of its file."""
MAX_SIGNATURE = 1 << 20
"""Bytes of the largest signature or key that is read; those of one file have some 2,000."""


class SignatureError(BitplaneError):
    """A file has no signature by a key, or cannot be signed; one line that names the file."""


def sign(data: bytes, name: str, key: str | os.PathLike[str]) -> bytes:
    """The signature of a file.

    Args:
        data: the whole file.
        name: of the file, without folders.
        key: path of the private key, PEM without a password.

    Returns:
        What to write to `name` + ".sig".

    Raises:
        SignatureError: the key cannot be used, or the library is missing.
    """
    library = _library()
    _check_readable(key, "the private key")
    try:
        config = library.signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as e:
        raise SignatureError(
            f"{plain(str(key))}: is no private EC key in PEM without a password ({_reason(e)}); make one with"
            " `openssl ecparam -name prime256v1 -genkey -noout -out KEY`"
        ) from e
    try:
        with tempfile.TemporaryDirectory(prefix="bitplane-") as folder:  # the library signs paths; only this user may enter it
            file = Path(folder, name)
            file.write_bytes(data)
            config.sign(file, file.with_name(name + SUFFIX))
            return file.with_name(name + SUFFIX).read_bytes()
    except Exception as e:
        raise SignatureError(f"{plain(name)}: cannot be signed ({_reason(e)})") from e


def verify(data: bytes, path: Path, key: str | os.PathLike[str]) -> None:
    """Check that a file was signed by the owner of a key.

    The bytes are those that the caller read and goes on to use: no path is read again after it was checked.

    Args:
        data: the whole file.
        path: where it came from; its signature is `path` + ".sig".
        key: path of the public key, PEM.

    Raises:
        SignatureError: there is no signature, it is by another key, of a file of another name or of other bytes, the key
            cannot be used, or the library is missing.
    """
    library = _library()
    signature, label = path.with_name(path.name + SUFFIX), plain(str(path))
    _check_readable(key, "the public key")
    _check_readable(signature, f"the signature of '{plain(path.name)}'")
    signed = _Signed()
    try:
        config = library.verifying.Config().set_hashing_config(signed).use_elliptic_key_verifier(public_key=key)
    except Exception as e:
        raise SignatureError(
            f"{plain(str(key))}: is no public EC key in PEM ({_reason(e)}); make one of a private key with"
            " `openssl ec -in PRIVATE -pubout -out KEY`"
        ) from e
    try:
        config.verify(path, signature)
    except Exception as e:
        raise SignatureError(
            f"{label}: its signature is damaged or not by the key '{plain(str(key))}' ({_reason(e)}); do not use the file"
        ) from e
    _compare(signed.manifest, data, path.name, label)


def _compare(manifest: "Manifest | None", data: bytes, name: str, label: str) -> None:
    """Compare what was signed with the bytes that were read."""
    files = (
        [(r.identifier, r.digest.algorithm, r.digest.digest_value) for r in manifest.resource_descriptors()] if manifest else []
    )
    if manifest is None or [file[:2] for file in files] != [(".", "sha256")]:
        raise SignatureError(f"{label}: its signature is not one of the SHA-256 of a single file; sign the file itself")
    if manifest.model_name != name:
        signed = plain(manifest.model_name)
        raise SignatureError(
            f"{label}: its signature is of a file called '{signed}'; give the file that name, or take its own signature"
        )
    if files[0][2] != hashlib.sha256(data).digest():
        raise SignatureError(f"{label}: was altered after it was signed, or is not the file that was signed; do not use it")


class _Signed:
    """Stands where the library hashes a path: it keeps what a verified signature names, to be compared with bytes in memory.

    If the library should not show it, `manifest` stays None, which is refused.
    """

    manifest: "Manifest | None" = None

    def hash(self, *_: Any, **__: Any) -> "_Signed":
        """In place of the manifest of a path."""
        return self

    def add_ignored_paths(self, **_: Any) -> None:
        """There is one file, which is not ignored."""

    def __eq__(self, other: object) -> bool:
        self.manifest = other  # type: ignore[assignment]  of the library: what was signed
        return True

    __hash__ = None  # type: ignore[assignment]


def _library() -> Any:
    try:
        import model_signing
    except ImportError as e:
        raise SignatureError(f"signatures need the package model-signing ({_reason(e)}): pip install 'bitplane[sign]'") from e
    return model_signing


def _check_readable(path: str | os.PathLike[str], what: str) -> None:
    """Refuse what is no file, or too long to be a key or a signature."""
    try:
        found = os.stat(os.fspath(path))
    except (OSError, ValueError, TypeError) as e:
        raise SignatureError(
            f"{plain(str(path))}: {what} cannot be read ({getattr(e, 'strerror', e)}); check the path"
        ) from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_SIGNATURE:
        raise SignatureError(f"{plain(str(path))}: is not {what}, which is a file of at most {MAX_SIGNATURE} bytes")


def _reason(error: BaseException) -> str:
    return plain(" ".join(f"{type(error).__name__}: {error}".split()), 200)
