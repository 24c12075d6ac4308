"""Runs on 32 pictures: what is written, resumed, refused, and shared by processes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bitplane.cli import main
from bitplane.format.levels import LEVEL_SETS
from bitplane.train.checkpoint import read_config, read_json, write_config
from bitplane.train.config import TrainConfig, from_options, to_options
from bitplane.train.data import load_data
from bitplane.train.errors import CheckpointError, ConfigError, RunTakenError, TrainingError
from bitplane.train.layers import LowBitConv2d, low_bit_layers
from bitplane.train.loop import train
from bitplane.train.losses import Loss
from bitplane.train.methods import METHODS
from bitplane.train.optimizer import ProxOptimizer
from bitplane.train.weights import load_final

SMALL = {"epochs": 3, "batch_size": 8, "activations": 4, "lr": 0.02, "eval_every": 10}


@pytest.fixture
def config(pictures) -> TrainConfig:
    return from_options({**SMALL, "data": str(pictures)})


def final(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def command(run: Path, config: TrainConfig, *extra: str, before: str = "", launcher: tuple[str, ...] = (), **env: str) -> int:
    """`bitplane train` in a process of its own, after the statements `before`."""
    options = [str(x) for k, v in SMALL.items() for x in (f"--{k.replace('_', '-')}", v)]
    argv = ["train", "--output", str(run), "--data", config.data.data, *options, *extra]
    script = run.with_suffix(".py")
    script.write_text(f"import sys\nfrom bitplane.cli import main\n{before}\nsys.exit(main(sys.argv[1:]))\n")
    start = launcher or (sys.executable,)
    return subprocess.run([*start, str(script), *argv], env=os.environ | env, capture_output=True, timeout=600).returncode


KILL = """
import os, signal
from bitplane.train.optimizer import ProxOptimizer
step = ProxOptimizer.step
def killed(self, closure=None):
    if self.step_count == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, closure)
ProxOptimizer.step = killed
"""


@pytest.mark.parametrize(
    "extra",
    [
        ("--method", "pq", "--rho-0", "0.01"),
        ("--method", "pc-random", "--scale-fit", "learned", "--average-from", "0.4", "--base", "adam"),
    ],
)
def test_a_killed_and_resumed_run_ends_with_the_same_weights(config, tmp_path, extra):
    """SIGKILL in the middle of each epoch (4 steps)."""
    env = {"OMP_NUM_THREADS": "1"}
    assert command(tmp_path / "whole", config, *extra, **env) == 0
    assert command(tmp_path / "killed", config, *extra, before=KILL.format(at=1), **env) == -9
    assert command(tmp_path / "killed", config, *extra, "--resume", before=KILL.format(at=6), **env) == -9
    assert command(tmp_path / "killed", config, *extra, "--resume", before=KILL.format(at=9), **env) == -9
    assert not (tmp_path / "killed" / "final").exists()
    assert command(tmp_path / "killed", config, *extra, "--resume", **env) == 0
    assert [json.loads(line)["epoch"] for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    for name in (
        "final/model.safetensors",
        "checkpoints/epoch-0003/optimizer.safetensors",
        "checkpoints/epoch-0003/model.safetensors",
    ):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def losses(run: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one_does_with_the_same_batch(config, tmp_path):
    extra = ("--weights", "float", "--activations", "32", "--lr", "0.001")
    assert command(tmp_path / "one", config, *extra) == 0
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert command(tmp_path / "two", config, *extra, launcher=launcher, ACCELERATE_USE_CPU="true") == 0
    state = [read_json(tmp_path / name / "checkpoints" / "epoch-0003" / "state.json", dict) for name in ("one", "two")]
    assert [s["processes"] for s in state] == [1, 2]
    assert state[0]["step"] == state[1]["step"] == 12
    # Rounding differs, and training amplifies it from epoch to epoch.
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two[0] == pytest.approx(one[0], rel=1e-5)
    assert two == pytest.approx(one, rel=1e-3)
    a, b = final(tmp_path / "one"), final(tmp_path / "two")
    for name in ("bn1.weight", "layer3.2.bn2.bias", "layer2.0.conv1.weight", "fc.bias", "layer1.0.bn1.running_var"):
        torch.testing.assert_close(b[name], a[name], rtol=1e-2, atol=1e-3)
    with pytest.raises(CheckpointError, match="written by 2 processes, not 1; resume with accelerate launch --num_processes 2"):
        train(config, tmp_path / "two", resume=True)


def test_a_network_captured_by_torch_dynamo_trains_to_the_same_weights(config, tmp_path):
    assert command(tmp_path / "plain", config) == 0
    # The backend `eager` runs the captured operators as they are: whatever differs, the capture lost.
    assert command(tmp_path / "captured", config, ACCELERATE_DYNAMO_BACKEND="EAGER") == 0
    plain, captured = final(tmp_path / "plain"), final(tmp_path / "captured")
    assert plain.keys() == captured.keys()
    assert all(torch.equal(plain[k], captured[k]) for k in plain)


def test_checkpoints_are_saved_as_often_as_asked_for_and_at_the_end(config, tmp_path):
    train(replace(config, save_every=2, keep=5), tmp_path / "run", progress=False)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["epoch-0002", "epoch-0003"]
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3


def test_a_run_killed_before_its_first_checkpoint_goes_on_from_the_network_it_was_to_start_from(config, tmp_path, monkeypatch):
    train(replace(config, epochs=1), tmp_path / "first", progress=False)
    begun = replace(config, seed=3)
    train(begun, tmp_path / "whole", init=tmp_path / "first", progress=False)
    step = ProxOptimizer.step

    def killed(self, closure=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProxOptimizer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(begun, tmp_path / "killed", init=tmp_path / "first", progress=False)
    monkeypatch.setattr(ProxOptimizer, "step", step)
    train(config, tmp_path / "killed", resume=True, progress=False)
    whole, killed_run = final(tmp_path / "whole"), final(tmp_path / "killed")
    assert all(torch.equal(whole[k], killed_run[k]) for k in whole)


def test_a_folder_without_a_run_cannot_be_resumed(config, tmp_path):
    with pytest.raises(CheckpointError, match=r"run: holds no run to resume; leave out --resume"):
        train(config, tmp_path / "run", resume=True)
    write_config(tmp_path / "run", config)
    with pytest.raises(CheckpointError, match=r"no checkpoint to resume from; remove the folder"):
        train(config, tmp_path / "run", resume=True, progress=False)


def test_checkpoints_without_their_configuration_are_not_trained_over(config, tmp_path):
    train(replace(config, epochs=1), tmp_path / "run", progress=False)
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="holds checkpoints of a run without its config"):
        train(config, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "epoch-0001").exists()


def test_a_folder_that_is_trained_into_is_refused_to_others(config, tmp_path, monkeypatch):
    real, complaints = ProxOptimizer.step, []

    def step(self, closure=None):
        if not complaints:
            with pytest.raises(RunTakenError) as error:
                train(config, tmp_path / "run", resume=True, progress=False)
            complaints.append(str(error.value))
        return real(self, closure)

    monkeypatch.setattr(ProxOptimizer, "step", step)
    train(replace(config, epochs=1), tmp_path / "run", progress=False)
    assert complaints == [f"{tmp_path / 'run'}: another process is training into this folder; wait or choose another folder"]
    with pytest.raises(CheckpointError, match="holds a run already"):  # the lock is gone with the run
        train(config, tmp_path / "run")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_log_is_one_line_and_the_run_can_go_on(config, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        CheckpointError, match=r"run/log.jsonl: cannot be written \(.*No space left.*\); free some space"
    ) as error:
        train(config, run, progress=False)
    assert "\n" not in str(error.value)
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["epoch-0000"]
    (run / "log.jsonl").unlink()
    train(config, run, resume=True, progress=False)
    assert [json.loads(line)["epoch"] for line in (run / "log.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("broken", ["train.checkpoint.save", "atomic._flush", "train.checkpoint.replace_file"])
def test_a_start_that_cannot_be_written_leaves_nothing(config, tmp_path, monkeypatch, broken):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"bitplane.{broken}", full)
    with pytest.raises(CheckpointError, match="cannot be written"):
        train(config, tmp_path / "new" / "run", progress=False)
    assert not (tmp_path / "new").exists()


RESUMED = [
    (("--epochs", "30"), "was trained with epochs 1, not 30"),
    (("--epochs=30",), "was trained with epochs 1, not 30"),
    (("--batch-size", "128"), "was trained with batch_size 8, not 128"),
    (("--epochs", "4"), "was trained with epochs 1, not 4"),
    (("--no-download",), None),
    (("--epochs", "1", "--lr", "0.02"), None),
    ((), None),
]


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    train(from_options({**SMALL, "data": str(pictures), "epochs": 1}), run, progress=False)
    return run


@pytest.mark.parametrize(("options", "complaint"), RESUMED)
def test_a_run_is_resumed_by_its_stored_options_and_others_are_refused(finished, capsys, options, complaint):
    """Also those that are asked for by their default, as 30 epochs and batches of 128."""
    assert main(["train", "--output", str(finished), "--resume", *options]) == (2 if complaint else 0)
    if complaint:
        assert f"{finished}: {complaint}; leave the option out" in capsys.readouterr().err


def test_accumulated_parts_take_as_many_steps(config, tmp_path):
    train(replace(config, accumulate=2), tmp_path / "run", progress=False)
    assert read_json(tmp_path / "run" / "checkpoints" / "epoch-0003" / "state.json", dict)["step"] == 12


def test_a_batch_that_cannot_be_cut_is_refused(config, tmp_path):
    with pytest.raises(ConfigError, match=r"`batch_size` \(=8\) must be divisible by 1 processes times `accumulate` \(=3\)"):
        train(replace(config, accumulate=3), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_seed_gives_the_same_network_and_another_seed_another(config, tmp_path):
    runs = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(replace(config, epochs=1, seed=seed), tmp_path / name, progress=False)
        runs[name] = final(tmp_path / name)["layer1.0.conv1.weight"]
    assert torch.equal(runs["a"], runs["b"])
    assert not torch.equal(runs["a"], runs["c"])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_leaves_levels_times_scales(config, tmp_path, method):
    options = {"method": method, "weights": (METHODS[method].levels or ("binary",))[0], "epochs": 1}
    scale = {"scale": "two-sided"} if METHODS[method].fit == "ttq" else {}
    result = train(from_options({**options, **scale}, config), tmp_path / "run", progress=False)
    assert 0 <= result["test_top1"] <= 1
    model, _, _ = load_final(tmp_path / "run")
    for layer in low_bit_layers(model).values():
        scales = torch.where(layer.weight < 0, layer.level_scale[1:], layer.level_scale[:1]) if scale else layer.level_scale
        units = layer.weight / scales
        assert (units[..., None] - torch.tensor(layer.levels.values)).abs().min(-1).values.max() < 1e-5


def test_layers_may_have_other_level_sets(config, tmp_path):
    entries = ("layer3.*=binary", "*.conv2=quaternary")
    train(from_options({"layer_weights": entries}, config), tmp_path / "run", progress=False)
    model, stored, _ = load_final(tmp_path / "run")
    assert stored.model.layer_weights == entries
    found = {name: layer.levels.name for name, layer in low_bit_layers(model).items()}
    assert found["layer3.1.conv1"] == "binary"
    assert found["layer3.1.conv2"] == "quaternary"
    assert found["layer1.0.conv1"] == "ternary"
    with pytest.raises(ConfigError, match=r"matches none of conv1, layer1"):
        train(from_options({"layer_weights": ("layer9.*=binary",)}, config), tmp_path / "other")


def test_a_teacher_and_earlier_bits_change_what_is_learned(config, tmp_path):
    train(from_options({"weights": "float", "activations": 32}, config), tmp_path / "teacher", progress=False)
    recipe = {"earlier_bits": (8,), "activations": 2, "label_smoothing": 0.1, "reestimate": 2}
    train(from_options({**recipe, "teacher": str(tmp_path / "teacher")}, config), tmp_path / "run", progress=False)
    train(from_options(recipe, config), tmp_path / "plain", progress=False)
    assert read_json(tmp_path / "run" / "checkpoints" / "epoch-0003" / "state.json", dict)["bits"] == 2
    assert losses(tmp_path / "run") != losses(tmp_path / "plain")
    with pytest.raises(ConfigError, match="needs activations of 2, 4 or 8 bits"):
        train(from_options({"earlier_bits": (4,), "activations": 32}, config), tmp_path / "other")


@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(config, tmp_path, monkeypatch, parts):
    real, calls = Loss.__call__, []

    def broken(self, logits, images, labels):
        calls.append(1)
        return real(self, logits, images, labels) * (float("nan") if len(calls) == 6 * parts else 1)

    monkeypatch.setattr(Loss, "__call__", broken)
    with pytest.raises(TrainingError, match=r"not finite at step 5 \(epoch 2\); the last good checkpoint is .*epoch-0001"):
        train(replace(config, accumulate=parts), tmp_path / "run", progress=False)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch-0001"]
    saved = load_file(tmp_path / "run" / "checkpoints" / "epoch-0001" / "model.safetensors")
    assert all(torch.isfinite(v).all() for v in saved.values())


def test_losses_reach_a_tracker(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(replace(config, tracker="tensorboard"), tmp_path / "run", progress=False)
    events = EventAccumulator(str(tmp_path / "run" / "training"))
    events.Reload()
    assert [e.value for e in events.Scalars("train_loss")] == pytest.approx(losses(tmp_path / "run"))
    with pytest.raises(ConfigError, match="must be none or one of"):
        train(replace(config, tracker="abacus"), tmp_path / "other")


def test_a_held_out_split_replaces_the_test_images(config):
    whole, part = load_data(config.data), load_data(replace(config.data, holdout=10))
    assert (len(part.train.labels), len(part.test.labels)) == (22, 10)
    both = torch.cat([part.train.images, part.test.images]).flatten(1)
    assert torch.equal(both.unique(dim=0), whole.train.images.flatten(1).unique(dim=0))


def test_a_scale_of_too_few_weights_is_refused():
    with pytest.raises(ConfigError, match=r"a layer of weights \[3, 1, 1, 1\] has 1 weights for a scale of 3 levels"):
        LowBitConv2d(1, 3, 1, levels=LEVEL_SETS["ternary"], scale="channel")


def test_a_configuration_survives_its_file_and_the_flat_form(config, tmp_path):
    train(replace(config, epochs=1), tmp_path / "run", progress=False)
    stored = read_config(tmp_path / "run")
    assert from_options(to_options(stored)) == stored
    with pytest.raises(ConfigError, match="`colour` is not an option"):
        from_options({"colour": 1})
    (tmp_path / "run" / "config.json").write_text('{"model": {"depth": 20}}')
    with pytest.raises(CheckpointError, match=r"config\.json: not the configuration"):
        read_config(tmp_path / "run")
