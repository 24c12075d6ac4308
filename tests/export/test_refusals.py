"""What cannot be exported is refused in one line, and nothing half written is left."""

import errno
import os
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from bitplane.export import ExportError, export_model, verify


@pytest.fixture
def network(make_network):
    return make_network(size=8)


def refused(network: tuple, folder, match: str, metadata: dict[str, Any] | None = None) -> None:
    model, samples = network
    with pytest.raises(ExportError, match=match) as caught:
        export_model(model, metadata or {}, samples, folder / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def full_disk(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_weights_off_the_level_set(network, tmp_path) -> None:
    with torch.no_grad():
        network[0].layer2[0].conv1.weight[0, 0, 0, 0] += 0.1
    refused(network, tmp_path, r"layer2\.0\.conv1: 1 of 4608 .* finish or resume the run")


def test_a_full_disk_while_syncing(network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", full_disk)
    refused(network, tmp_path, r"model\.onnx: cannot be written \(No space left on device\)")


def test_a_full_disk_while_writing_keeps_the_older_file(network, tmp_path, monkeypatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ExportError, match="No space left"):
        export_model(network[0], {}, network[1], path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"older"


def test_a_failed_rename(network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "replace", full_disk)
    refused(network, tmp_path, "cannot be written")


def test_a_missing_folder(network, tmp_path) -> None:
    with pytest.raises(ExportError, match="cannot be written"):
        export_model(network[0], {}, network[1], tmp_path / "missing" / "model.onnx")


def test_logits_that_are_not_the_networks(network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(verify, "run_onnxruntime", lambda _file, x: np.ones((len(x), 10), np.float32) * 9)
    refused(network, tmp_path, "differ from PyTorch")


def test_logits_that_are_not_numbers(network, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(verify, "run_onnxruntime", lambda _file, x: np.full((len(x), 10), np.nan, np.float32))
    refused(network, tmp_path, "differ from PyTorch")


def test_a_graph_that_onnxruntime_refuses(network, tmp_path, monkeypatch) -> None:
    def fail(*_: Any) -> NoReturn:
        raise RuntimeError("[ONNXRuntimeError] no such operator\nsecond line")

    monkeypatch.setattr(verify, "run_onnxruntime", fail)
    refused(network, tmp_path, "no such operator")


def test_one_bit_activations_of_float_weights(make_network, tmp_path) -> None:
    refused(make_network(weights="float", activations=1), tmp_path, "1-bit activations need low-bit weights")


def test_an_activation_step_that_is_no_number(network, tmp_path) -> None:
    with torch.no_grad():
        network[0].layer1[1].quant2.step.fill_(torch.nan)
    refused(network, tmp_path, r"layer1\.1\.quant2: the activation step .* not finite")


@pytest.mark.parametrize(
    ("metadata", "match"),
    [({"clases": ("a",)}, "unknown key 'clases'"), ({"classes": ("a", "b")}, "2 names for 10 logits")],
)
def test_metadata_that_does_not_fit(network, tmp_path, metadata, match: str) -> None:
    refused(network, tmp_path, match, metadata)


@pytest.mark.parametrize(
    "samples",
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
    ],
    ids=["float", "three axes", "gray", "none"],
)
def test_samples_that_do_not_fit(network, tmp_path, samples) -> None:
    refused((network[0], samples), tmp_path, r"they must be torch\.uint8 \[N, 3, H, W\] with N > 0")


def test_a_fractional_zero_point(make_network, tmp_path) -> None:
    model, samples = make_network(size=8)
    model.input.zero_point.fill_(120.5)
    refused((model, samples), tmp_path, "must be an integer byte")
