"""export: calibration images of a folder are made into what a network takes."""

import json

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from onnx import TensorProto, helper
from PIL import Image

from bitplane.cli import main


@pytest.fixture
def grey(tmp_path):
    """A network of grey, oblong images, and a folder of RGB images of other sizes."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(0, 0.5, (8, 1, 3, 3)).astype(np.float32),
        "v": rng.normal(0, 0.5, (8, 8, 3, 3)).astype(np.float32),
        "f": rng.normal(0, 0.5, (2, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], "second", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["g"]),
        helper.make_node("Gemm", ["g", "f"], ["y"], "last", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "grey",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "grey.onnx")
    for i in range(6):
        target = tmp_path / "data" / "train" / f"class{i % 2}" / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3)).astype(np.uint8)).save(target)
    return tmp_path


def test_calibration_images_may_be_grey_and_oblong(grey, capsys):
    source, data, out = grey / "grey.onnx", grey / "data", grey / "out.onnx"
    images = ["--data", str(data), "--size", "8", "12", "--channels", "1", "--mean", "0", "--std", "255"]
    report = ["--json", str(grey / "r.json"), "--weights", "ternary"]
    assert main(["export", str(source), "-o", str(out), *images, *report]) == 0
    assert json.loads((grey / "r.json").read_text())["samples"] == 6
    capsys.readouterr()
    assert main(["predict", str(out), *map(str, sorted(data.rglob("*.png")))]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


@pytest.mark.parametrize("size", [["8", "12", "3"], ["0"], ["8", "-1"]])
def test_a_size_that_is_none_is_refused(grey, capsys, size):
    arguments = ["export", str(grey / "grey.onnx"), "-o", str(grey / "out.onnx"), "--data", str(grey / "data"), "--size", *size]
    assert main(arguments) == 2
    assert "--size" in capsys.readouterr().err
    assert not (grey / "out.onnx").exists()


@pytest.fixture
def keys(tmp_path):
    """Paths of a private key and its public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_what_export_signed_verify_accepts(grey, keys, capsys):
    private, public = keys
    out, signature = grey / "out.onnx", grey / "out.onnx.sig"
    command = ["export", str(grey / "grey.onnx"), "-o", str(out), "--data", str(grey / "data"), "--size", "8", "12"]
    command += ["--channels", "1", "--mean", "0", "--std", "255", "--sign", str(private)]
    assert main(command) == 0
    assert f"signed by {private}: {signature}" in capsys.readouterr().out
    assert main(["verify", str(out), "--key", str(public)]) == 0
    assert f"signed by the owner of {public}" in capsys.readouterr().out
    out.unlink()
    assert main(command) == 2
    assert f"{signature}: exists; add --force" in capsys.readouterr().err
    assert main([*command[:-1], str(public), "--force"]) == 2
    assert f"{public}: is no private EC key" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--force"]) == 0
    assert main(["verify", str(out), "--key", str(public)]) == 0
