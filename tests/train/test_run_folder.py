"""The folder of a run: who holds it, and its log."""

import io
from pathlib import Path

import pytest

from bitplane.train.errors import CheckpointError, RunTakenError
from bitplane.train.run_folder import append_to_log, held, shorten_log


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with held(tmp_path / "run"):
        for name in ("run", "link", "../" + tmp_path.name + "/run"):
            with pytest.raises(RunTakenError, match="another process is training into this folder"), held(tmp_path / name):
                pytest.fail("held twice")
        with held(tmp_path / "other"):
            pass
    with held(tmp_path / "run"):
        pass


def test_a_block_that_makes_no_run_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), held(tmp_path / "a" / "b" / "run"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_folders_that_others_use_stay(tmp_path):
    with held(tmp_path / "a" / "run"):
        (tmp_path / "a" / "mine").touch()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mine"]


def test_a_place_that_cannot_hold_a_run_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(CheckpointError, match=r"file/run: cannot be written \(.*\); free some space"),
        held(tmp_path / "file" / "run"),
    ):
        pytest.fail("held")


def test_half_a_line_does_not_stay_in_the_log(tmp_path, monkeypatch):
    append_to_log(tmp_path, {"epoch": 1})
    before = (tmp_path / "log.jsonl").read_bytes()

    class Full(io.TextIOWrapper):
        def write(self, text):
            super().write(text[:5])
            self.flush()
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: Full(io.FileIO(self, mode)))
        with pytest.raises(CheckpointError, match="No space left"):
            append_to_log(tmp_path, {"epoch": 2})
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_what_was_logged_after_the_newest_checkpoint_is_taken_away(tmp_path):
    for epoch in (1, 2, 3):
        append_to_log(tmp_path, {"epoch": epoch})
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"epo')
    shorten_log(tmp_path, 2)
    assert (tmp_path / "log.jsonl").read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    shorten_log(tmp_path / "absent", 2)
    assert not (tmp_path / "absent").exists()
