"""Checkpoints whose tensors were altered, and intact as files: refused in one line that names file and tensor, never used."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitplane.train.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from bitplane.train.errors import CheckpointError
from bitplane.train.loop import train
from bitplane.train.weights import load_final

STEM = "conv1.weight"
LATENT = "layer1.0.conv1.weight/latent"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of digits, of one epoch, that asks for two."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("damaged") / "run"
    optimizer = OptimizerConfig("pc-averaged", base="adam", average_from=0.1)
    config = TrainConfig(ModelConfig("resnet20"), DataConfig("digits", holdout=1300), optimizer, epochs=1, batch_size=64)
    train(config, folder, progress=False)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy without checksums, as a stranger or an older version makes it, whose configuration asks for another epoch."""
    shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("checksums.json"))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"epochs": 2}))
    return tmp_path / "run"


def cut(value):
    return value.flatten()[:-1].clone()


CHANGES = {
    "model": [
        ("another shape", STEM, cut),
        ("another type", STEM, torch.Tensor.double),
        ("integers", STEM, torch.Tensor.int),
        ("NaN", STEM, lambda v: v.fill_(torch.nan)),
        ("infinite", "bn1.running_var", lambda v: v.fill_(torch.inf)),
        ("missing", STEM, None),
    ],
    "optimizer": [
        ("a latent of another shape", LATENT, cut),
        ("a latent of another type", LATENT, torch.Tensor.half),
        ("no latent", LATENT, None),
        ("no average", LATENT.replace("latent", "average"), None),
        ("a moment of another shape", f"{STEM}/exp_avg", cut),
    ],
}


@pytest.mark.parametrize(
    ("file", "name", "change"),
    [pytest.param(file, name, change, id=f"{file}: {what}") for file, all_ in CHANGES.items() for what, name, change in all_],
)
def test_an_altered_tensor_is_refused_by_name(run, file, name, change):
    path = run / "checkpoints" / "epoch-0001" / f"{file}.safetensors"
    values = load_file(path)
    value = values.pop(name)
    if change is not None:
        values[name] = change(value)
    save_file(values, path)
    with pytest.raises(CheckpointError) as error:
        train(TrainConfig(), run, resume=True, progress=False)
    assert str(error.value).startswith(f"{path}: ")
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["conv9.weight/latent", "bn1.weight/latent", "nonsense"])
def test_a_tensor_that_nothing_has_is_refused_by_name(run, name):
    path = run / "checkpoints" / "epoch-0001" / "optimizer.safetensors"
    save_file(load_file(path) | {name: torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=f"optimizer.safetensors: `{name}` is nothing that resnet20"):
        train(TrainConfig(), run, resume=True, progress=False)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"epochs": "many"}),
        ("config.json", {"model": []}),
        ("config.json", {"data": None}),
        ("checkpoints/epoch-0001/state.json", {"epoch": -1}),
        ("checkpoints/epoch-0001/state.json", {"step": 1.5}),
        ("checkpoints/epoch-0001/state.json", {"processes": 0}),
        ("checkpoints/epoch-0001/state.json", {"bits": 9}),
    ],
)
def test_an_altered_document_is_refused_by_name(run, file, change):
    values = json.loads((run / file).read_text())
    (run / file).write_text(json.dumps(values | change))
    with pytest.raises(CheckpointError, match=next(iter(change))) as error:
        train(TrainConfig(), run, resume=True, progress=False)
    assert str(error.value).startswith(f"{run / file}: ")


@pytest.mark.parametrize("text", ["null", "[]", '{"test_top1": 2}', '{"test_top1": "x"}', "[" * 100_000, "\xff"])
def test_a_result_that_is_none_is_refused(run, text):
    (run / "final" / "result.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"result\.json: not a file of a run"):
        load_final(run)


def test_the_untouched_copy_is_resumed(run):
    assert train(TrainConfig(), run, resume=True, progress=False)["epochs"] == 2
