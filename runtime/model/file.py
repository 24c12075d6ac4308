"""The bytes of a packed file: read once, from a regular file, and compared with their signature and their own digest.

What is checked here are the bytes that are parsed afterwards; no path is read twice.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from bitplane.format import files
from bitplane.format import names as fmt
from bitplane.format.checksums import file_sha256
from bitplane.format.errors import FileError
from bitplane.format.limits import MAX_FILE
from bitplane.format.text import plain
from bitplane.runtime.errors import InputError, ModelError


@dataclass(frozen=True)
class CheckedFile:
    """A file as it was read.

    Attributes:
        label: what to call it in messages.
        data: its bytes.
        digest: hexadecimal SHA-256 that it carries and that was found right; None where it carries none.
    """

    label: str
    data: bytes
    digest: str | None


def read_file(source: str | Path | bytes, verify_key: str | os.PathLike[str] | None = None) -> CheckedFile:
    """Read a file, whole or not at all.

    Args:
        source: path of the file, or its bytes.
        verify_key: path of the public key (PEM) whose owner must have signed it, in `source` + ".sig"; None: nobody.

    Raises:
        InputError: bytes were given with a key.
        ModelError: the file cannot be read, is too large, or is not what its digest says.
        SignatureError: it is not signed by the key.
    """
    label = "<bytes>" if isinstance(source, bytes) else plain(str(source))
    data = source if isinstance(source, bytes) else _read(Path(source), label)
    if len(data) > MAX_FILE:
        raise ModelError(f"{label}: has {len(data)} bytes, at most {MAX_FILE} are read; is it a packed file?")
    if verify_key is not None:
        from bitplane.signature import verify  # takes a third of a second, and few ask for it

        if isinstance(source, bytes):
            raise InputError("verify_key needs the path of a packed file: its signature lies beside it")
        verify(data, Path(source), verify_key)
    return CheckedFile(label, data, _check_digest(data, label))


def _read(path: Path, label: str) -> bytes:
    """The bytes of a regular file, opened once and read as far as it goes."""
    try:
        return files.read_file(path, MAX_FILE)
    except FileError as error:
        raise ModelError(f"{label}: {error}; give the path of a packed file, or its bytes") from None


def _check_digest(data: bytes, label: str) -> str | None:
    """The digest that a file carries, once its bytes are known to have it; None where they carry none."""
    try:
        digests = file_sha256(data)
    except ValueError:
        raise ModelError(f"{label}: {fmt.META_FILE_SHA256} is damaged, or there twice; take the original") from None
    if digests is None:
        return None
    written, found = digests
    if written != found:
        raise ModelError(
            f"{label}: {fmt.META_FILE_SHA256} is {plain(written)} but the file hashes to {found}: it was damaged, or altered"
            " after it was written; take the original, or export it again"
        )
    return written
