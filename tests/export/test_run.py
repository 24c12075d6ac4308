"""A run on disk becomes a file with its provenance."""

import hashlib
import json

import onnx
import pytest

from bitplane.export import RUN_SAMPLES, export_run
from bitplane.format import names as fmt
from bitplane.train.checkpoint import write_config, write_folder
from bitplane.train.config import OptimizerConfig, TrainConfig
from bitplane.train.data import DataConfig
from bitplane.train.errors import CheckpointError


@pytest.fixture
def run(make_network, tmp_path):
    model, _ = make_network(channels=1, zero_point=78, pixel_scale=96.0)
    folder = tmp_path / "run"
    write_config(folder, TrainConfig(model.config, DataConfig("digits"), OptimizerConfig("rpc"), epochs=3))
    result = {"test_top1": 0.5, "epochs": 3, "classes": [str(i) for i in range(10)], "dataset": "digits"}
    result |= {"train_loss": 1.5, "seconds": 9.5, "device": "cpu", "torch": "2"}
    write_folder(folder / "final", {"model": model.state_dict()}, {"result": result})
    return folder


def test_a_finished_run_becomes_a_file(run, tmp_path) -> None:
    report = export_run(run, None, tmp_path / "model.onnx", count=20)
    assert report.samples == 20
    properties = {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert properties[fmt.META_METHOD] == "rpc"
    assert properties[fmt.META_DATASET] == "digits"
    assert json.loads(properties[fmt.META_CLASSES]) == [str(i) for i in range(10)]
    assert json.loads(properties[fmt.META_ACCURACY]) == {"test_top1": 0.5, "epochs": 3}
    assert json.loads(properties[fmt.META_INPUT]) == {
        "size": [16, 16],
        "resize": "bilinear",
        "fit": "stretch",
        "channels": 1,
        "mean": [78.0],
        "std": [96.0],
        "zero_point": 78,
        "scale": 96.0,
    }
    weights = (run / "final" / "model.safetensors").read_bytes()
    assert properties[fmt.META_CHECKPOINT_SHA256] == hashlib.sha256(weights).hexdigest()


def test_an_unfinished_run_is_refused(run, tmp_path) -> None:
    (run / "final" / "result.json").unlink()
    with pytest.raises(CheckpointError, match=r"result\.json"):
        export_run(run, None, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_missing_run_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        export_run(tmp_path / "nowhere", None, tmp_path / "model.onnx")


def test_samples_may_be_given(run, make_network, tmp_path) -> None:
    _, samples = make_network(channels=1, zero_point=78, pixel_scale=96.0, samples=7)
    assert export_run(run, samples, tmp_path / "model.onnx").samples == 7


def test_without_samples_the_runs_own_images_are_taken(run, tmp_path) -> None:
    assert export_run(run, None, tmp_path / "model.onnx").samples == RUN_SAMPLES
