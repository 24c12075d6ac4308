"""Signatures of files: what is verified are the bytes that are used, and each reason to refuse is one line."""

import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from model_signing import signing, verifying

from bitplane import InferenceSession
from bitplane.runtime import InputError, ModelError
from bitplane.signature import SignatureError, sign, verify

DATA = (Path(__file__).parent / "fixtures" / "format-1.4" / "whole.onnx").read_bytes()


def write_keys(folder: Path, name: str, key=None, password: bytes | None = None) -> tuple[Path, Path]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    how = BestAvailableEncryption(password) if password else NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def signed(tmp_path):
    """A signed file, and the keys."""
    private, public = write_keys(tmp_path, "key")
    path = tmp_path / "m.onnx"
    path.write_bytes(DATA)
    (tmp_path / "m.onnx.sig").write_bytes(sign(DATA, "m.onnx", private))
    return path, private, public


def refusal(path, key, data=DATA) -> str:
    with pytest.raises(SignatureError) as error:
        verify(data, path, key)
    assert str(error.value).isprintable()
    return str(error.value)


def test_a_session_opens_a_file_that_was_signed_by_the_key(signed) -> None:
    path, _, public = signed
    assert InferenceSession(path, verify_key=public).get_inputs()[0].shape == ["batch", 1, 10, 10]
    assert InferenceSession(str(path), verify_key=str(public)).get_modelmeta().custom_metadata_map["bitplane.model"] == "whole"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_signatures_are_those_of_the_library(curve, tmp_path) -> None:
    private, public = write_keys(tmp_path, "key", ec.generate_private_key(curve))
    path, signature = tmp_path / "m.onnx", tmp_path / "m.onnx.sig"
    path.write_bytes(DATA)
    signature.write_bytes(sign(DATA, "m.onnx", private))
    verifying.Config().use_elliptic_key_verifier(public_key=public).verify(path, signature)
    signing.Config().use_elliptic_key_signer(private_key=private).sign(path, signature)
    verify(DATA, path, public)


def test_the_bytes_that_were_read_are_verified_not_those_at_the_path(signed) -> None:
    path, _, public = signed
    path.write_bytes(b"swapped after it was read")
    verify(DATA, path, public)
    path.write_bytes(DATA)
    assert "was altered after it was signed" in refusal(path, public, DATA[:-1] + b"x")


def test_an_altered_file_is_refused_even_where_its_checksums_were_written_again(signed) -> None:
    import onnx

    from bitplane.format.checksums import serialize

    path, _, public = signed
    model = onnx.load(path)
    model.graph.doc_string = "altered"
    path.write_bytes(serialize(model))
    InferenceSession(path)
    with pytest.raises(SignatureError, match=r"m\.onnx: was altered after it was signed"):
        InferenceSession(path, verify_key=public)


def test_another_key_is_refused(signed, tmp_path) -> None:
    _, other = write_keys(tmp_path, "other")
    assert f"its signature is damaged or not by the key '{other}'" in refusal(signed[0], other)


def test_a_signature_of_another_file_is_refused(signed, tmp_path) -> None:
    path, private, public = signed
    path.with_name("n.onnx.sig").write_bytes(sign(DATA, "m.onnx", private))
    assert "n.onnx: its signature is of a file called 'm.onnx'" in refusal(path.with_name("n.onnx"), public)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(DATA)
    signing.Config().use_elliptic_key_signer(private_key=private).sign(folder, path.with_name("m.onnx.sig"))
    assert "is not one of the SHA-256 of a single file; sign the file itself" in refusal(path, public)


def test_a_missing_signature_is_refused(signed) -> None:
    path, _, public = signed
    path.with_name("m.onnx.sig").unlink()
    assert "m.onnx.sig: the signature of 'm.onnx' cannot be read (No such file or directory)" in refusal(path, public)
    with pytest.raises(ModelError, match="cannot be read"):
        InferenceSession(path.with_name("none.onnx"), verify_key=public)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "[" * 100_000, "\udcff", '{"verificationMaterial": {}}'])
def test_a_signature_that_is_none_is_refused(text, signed) -> None:
    path, _, public = signed
    path.with_name("m.onnx.sig").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "its signature is damaged" in refusal(path, public)


def test_every_altered_character_of_the_statement_is_refused(signed) -> None:
    path, _, public = signed
    signature = path.with_name("m.onnx.sig")
    text = signature.read_text()
    start, end = text.index('"payload":"') + 11, text.index('"payloadType"') - 4
    for at in range(start, end, 29):
        signature.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
        refusal(path, public)
    signature.write_text(text)
    verify(DATA, path, public)


def test_a_key_that_cannot_be_used_is_named(signed, tmp_path) -> None:
    path, private, public = signed
    text, folder = tmp_path / "text", tmp_path / "folder"
    text.write_text("no key")
    folder.mkdir()
    _, weak = write_keys(tmp_path, "weak", rsa.generate_private_key(65537, 2048))
    locked, _ = write_keys(tmp_path, "locked", password=b"secret")
    for key in (text, weak, private):
        assert f"{key}: is no public EC key in PEM" in refusal(path, key)
    assert "the public key cannot be read (No such file" in refusal(path, tmp_path / "none")
    assert "is not the public key, which is a file" in refusal(path, folder)
    assert "cannot be read" in refusal(path, 3.5)
    for key in (text, public, locked):
        with pytest.raises(SignatureError, match="is no private EC key in PEM without a password"):
            sign(DATA, "m.onnx", key)
    with pytest.raises(SignatureError, match="the private key cannot be read"):
        sign(DATA, "m.onnx", tmp_path / "none")


def test_bytes_have_no_signature_beside_them(signed) -> None:
    with pytest.raises(InputError, match="verify_key needs the path of a packed file"):
        InferenceSession(DATA, verify_key=signed[2])


def test_without_the_library_the_extra_is_named(signed, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert "pip install 'bitplane[sign]'" in refusal(signed[0], signed[2])
    InferenceSession(signed[0])
