"""What a user brings is opened without running it, and only from where it lies."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from bitplane.export import ExportError, Quantization, export_file
from bitplane.export.read.files import load_onnx
from bitplane.export.read.torchvision import load_torchvision
from bitplane.train.errors import CheckpointError


def external(folder: Path, location: str, *, offset: int = 0, length: int | None = None, dims=(4,)) -> Path:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": str(offset)} | ({} if length is None else {"length": str(length)})
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [tensor],
    )
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_external_data_beside_the_model_are_read(tmp_path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"skip" + np.arange(4, dtype=np.float32).tobytes())
    model = load_onnx(external(tmp_path, "weights.bin", offset=4, length=16))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), np.arange(4))


@pytest.mark.parametrize(
    "kind",
    [
        "absolute",
        "above",
        "above, hidden",
        "symlink",
        "folder link",
        "hardlink",
        "pipe",
        "folder",
        "missing",
        "short",
        "negative",
    ],
)
def test_external_data_anywhere_else_are_refused(tmp_path, kind: str) -> None:
    folder, secret = tmp_path / "model", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(bytes(64))
    location, options = "w.bin", {}
    if kind == "absolute":
        location = str(secret)
    elif kind == "above":
        location = "../secret"
    elif kind == "above, hidden":
        location = "sub/../../secret"
        (folder / "sub").mkdir()
    elif kind == "symlink":
        (folder / "w.bin").symlink_to(secret)
    elif kind == "folder link":
        (folder / "sub").symlink_to(tmp_path)
        location = "sub/secret"
    elif kind == "hardlink":
        os.link(secret, folder / "w.bin")
    elif kind == "pipe":
        os.mkfifo(folder / "w.bin")
    elif kind == "folder":
        (folder / "w.bin").mkdir()
    elif kind == "short":
        (folder / "w.bin").write_bytes(bytes(8))
    elif kind == "negative":
        (folder / "w.bin").write_bytes(bytes(64))
        options = {"offset": -4}
    with pytest.raises(ExportError, match=r"data of tensor 'w' lie in .*; save the model with its data inside"):
        load_onnx(external(folder, location, **options))


@pytest.mark.parametrize("dims", [(1 << 40,), (-1, 4), (1 << 32, 1 << 32)])
def test_a_huge_declared_tensor_is_refused_before_it_is_allocated(tmp_path, dims) -> None:
    with pytest.raises(ExportError, match="tensor 'w' declares shape"):
        load_onnx(external(tmp_path, "w.bin", dims=dims))


@pytest.mark.parametrize("data", [b"", b"hello", None])
def test_a_file_that_is_no_onnx_is_refused(tmp_path, data) -> None:
    path = tmp_path / "m.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ExportError, match=r"m\.onnx"):
        load_onnx(path)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory) -> Path:
    from torchvision.models import resnet18 as make

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("torchvision") / "resnet18.safetensors"
    save_file(make(num_classes=7).state_dict(), path)
    return path


def test_torchvision_weights_become_a_packed_file(resnet18, tmp_path) -> None:
    samples = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    report = export_file(resnet18, samples, tmp_path / "m.onnx", quantization=Quantization(weights="binary", activations=2))
    operators = [layer.operator for layer in report.layers]
    assert operators == ["PixelConv", *["BinaryConv"] * 19, "Gemm"]
    assert report.bytes < 2_500_000 - 1000 * 512


def test_a_pickle_is_refused_with_the_way_out(tmp_path) -> None:
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(ExportError, match=r"is a pickle, which can run code.*safetensors\.torch\.save_file"):
        load_torchvision(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: w.pop("layer1.0.bn1.bias"), r"`layer1\.0\.bn1\.bias` is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "`extra` is unknown"),
        (lambda w: w.pop("layer4.1.conv1.weight"), "not the weights of torchvision's resnet18"),
        (lambda w: w.update({"bn1.bias": torch.zeros(3)}), r"`bn1\.bias` is \[3\], expected \[64\]"),
    ],
)
def test_weights_of_another_network_are_refused(resnet18, tmp_path, change, match: str) -> None:
    from safetensors.torch import load_file

    weights = load_file(resnet18)
    change(weights)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ExportError, match=match):
        load_torchvision(tmp_path / "w.safetensors")


def test_a_damaged_safetensors_is_refused(tmp_path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        load_torchvision(tmp_path / "w.safetensors")
