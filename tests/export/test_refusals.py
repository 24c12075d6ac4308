"""What cannot be exported is refused in one line, and nothing half written is left."""

import errno
import os
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
import torch

from bitplane.export import ExportError, exporter, to_onnx, verify


@pytest.fixture
def network(make_network):
    return make_network(size=8)


def refused(network: tuple, folder, match: str, metadata: dict[str, Any] | None = None) -> None:
    model, samples = network
    with pytest.raises(ExportError, match=match) as caught:
        to_onnx(model, samples, folder / "model.onnx", metadata=metadata)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def full_disk(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_weights_off_the_level_set(network, tmp_path) -> None:
    with torch.no_grad():
        network[0].layer2[0].conv1.weight[0, 0, 0, 0] += 0.1
    refused(network, tmp_path, r"layer2\.0\.conv1: 1 of 4608 .* call `bitplane\.finish\(model, optimizer\)`, or finish")


def test_a_full_disk_while_syncing(network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    refused(network, tmp_path, r"model\.onnx: cannot be written \(No space left on device\)")


def test_a_full_disk_while_writing_keeps_the_older_file(network, tmp_path, monkeypatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ExportError, match="No space left"):
        to_onnx(*network, path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"older"


def test_a_failed_rename(network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "replace", full_disk)
    refused(network, tmp_path, "cannot be written")


def test_a_missing_folder(network, tmp_path) -> None:
    with pytest.raises(ExportError, match="cannot be written"):
        to_onnx(*network, tmp_path / "missing" / "model.onnx")


@pytest.mark.parametrize("value", [0.1, np.nan])
def test_logits_that_are_not_the_networks(network, tmp_path, monkeypatch, value: float) -> None:
    run = verify.run_onnxruntime

    def wrong(*arguments: Any) -> list[np.ndarray]:
        logits, *codes = run(*arguments)
        return [logits + np.float32(value), *codes]

    monkeypatch.setattr(verify, "run_onnxruntime", wrong)
    refused(network, tmp_path, "logits of the exported graph differ from the network's")


def test_codes_that_are_not_the_networks(network, tmp_path, monkeypatch) -> None:
    run = verify.run_onnxruntime

    def wrong(*arguments: Any) -> list[np.ndarray]:
        logits, *codes = run(*arguments)
        if codes:
            codes = [c.copy() for c in codes]
            codes[4] = np.minimum(codes[4] + np.uint8(1), 3)
        return [logits, *codes]

    monkeypatch.setattr(verify, "run_onnxruntime", wrong)
    refused(network, tmp_path, r"% of the activation codes of layer1\.2\.conv1\.quantizer differ")


@pytest.mark.parametrize("ending", [".scale", ".bias", ".step", ".sign", ".mask", "conv1.weight"])
def test_a_constant_that_is_not_the_networks(network, tmp_path, monkeypatch, ending: str) -> None:
    """A graph built wrongly in one channel of one layer does not pass the self-check."""
    write = exporter.write_model

    def wrong(*arguments: Any) -> tuple[onnx.ModelProto, Any]:
        file, written = write(*arguments)
        tensor = [t for t in file.graph.initializer if t.name.endswith(ending)][-1]
        value = onnx.numpy_helper.to_array(tensor).copy()
        value.flat[0] = value.flat[0] ^ 0xFF if value.dtype == np.uint8 else value.flat[0] * 2 + 1
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        return file, written

    monkeypatch.setattr(exporter, "write_model", wrong)
    refused(network, tmp_path, "differ from the network's")


def test_a_graph_that_onnxruntime_refuses(network, tmp_path, monkeypatch) -> None:
    def fail(*_: Any) -> NoReturn:
        raise RuntimeError("[ONNXRuntimeError] no such operator\nsecond line")

    monkeypatch.setattr(verify, "run_onnxruntime", fail)
    refused(network, tmp_path, "no such operator")


def test_an_activation_step_that_is_no_number(network, tmp_path) -> None:
    with torch.no_grad():
        network[0].layer1[1].conv2.quantizer.step.fill_(torch.nan)
    refused(network, tmp_path, r"layer1\.1\.conv2\.quantizer: the activation step .* not finite")


@pytest.mark.parametrize(
    ("metadata", "match"),
    [({"clases": ("a",)}, "unknown key 'clases'"), ({"classes": ("a", "b")}, "2 names for 10 logits")],
)
def test_metadata_that_does_not_fit(network, tmp_path, metadata, match: str) -> None:
    refused(network, tmp_path, match, metadata)


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (torch.zeros(2, 3, 8, 8), r"torch\.float32 given, the network takes torch\.uint8; give pixels"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "must be uint8 pixels or float32"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "N > 0"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "takes 3 channels"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "N > 0"),
        (torch.full((2, 3, 8, 8), torch.nan), "NaN"),
    ],
    ids=["float", "integer", "three axes", "gray", "none", "not finite"],
)
def test_samples_that_do_not_fit(network, tmp_path, samples, match) -> None:
    refused((network[0], samples), tmp_path, match)


def test_a_path_that_exists_needs_force(network, tmp_path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(ExportError, match="exists; add --force"):
        to_onnx(*network, path)
    assert path.read_bytes() == b"mine"
    to_onnx(*network, path, force=True)
    assert path.stat().st_size > 1000


def test_a_fractional_zero_point(make_network, tmp_path) -> None:
    model, samples = make_network(size=8)
    model.input.zero_point.fill_(120.5)
    refused((model, samples), tmp_path, "must be an integer byte")
