"""Checkpoints on disk: which one is the newest, and which are removed."""

import pytest
import torch

from bitplane.train.checkpoint import checkpoints, newest_checkpoint, read_json, read_tensors, save_checkpoint
from bitplane.train.errors import CheckpointError


def save(run, epoch, keep):
    save_checkpoint(run, epoch, {"w": torch.full((1,), float(epoch))}, {}, {"epoch": epoch}, keep)


def names(run):
    return {p.name for p in (run / "checkpoints").iterdir()}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_oldest_are_removed_where_the_number_of_an_epoch_gets_a_digit(tmp_path, keep):
    for epoch in range(9_997, 10_004):
        save(tmp_path, epoch, keep)
        assert newest_checkpoint(tmp_path).name == f"epoch-{epoch}"
    assert names(tmp_path) == {f"epoch-{epoch}" for epoch in range(10_004 - keep, 10_004)}
    assert [p.name for p in checkpoints(tmp_path)] == [f"epoch-{epoch}" for epoch in range(10_004 - keep, 10_004)]


def test_the_start_is_kept_until_there_is_a_later_one(tmp_path):
    save(tmp_path, 0, 3)
    assert names(tmp_path) == {"epoch-0000"}
    save(tmp_path, 1, 3)
    assert names(tmp_path) == {"epoch-0001"}


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    (tmp_path / "checkpoints" / "epoch-best").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        newest_checkpoint(tmp_path)
    for epoch in (1, 2):
        save(tmp_path, epoch, 1)
    assert names(tmp_path) == {"epoch-best", "epoch-0002"}


def test_a_pruned_checkpoint_is_gone_at_once(tmp_path, monkeypatch):
    """Whoever is killed while an old checkpoint is deleted leaves none that looks whole."""
    save(tmp_path, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr("bitplane.atomic.shutil.rmtree", lambda *_, **__: None)
        save(tmp_path, 2, 1)
        assert [p.name for p in checkpoints(tmp_path)] == ["epoch-0002"]
    save(tmp_path, 3, 1)
    assert names(tmp_path) == {"epoch-0003"}


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_every_flipped_bit_is_refused(tmp_path, name):
    save(tmp_path, 7, 1)
    file = newest_checkpoint(tmp_path) / name

    def read():
        return read_tensors(file) if file.suffix == ".safetensors" else read_json(file, dict[str, int])

    whole, data = read(), file.read_bytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=f"{name}: is not what was written"):
            read()
    file.write_bytes(flipped)
    (file.parent / "checksums.json").unlink()
    if file.suffix == ".safetensors":
        assert read() != whole  # a run of bitplane 0.1 has no checksums: it loads as it did
    file.write_bytes(data)
    assert read() == whole
