"""Checkpoints that are written while training goes on."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from kd_bench.training import checkpoint
from kd_bench.training.checkpoint import AsyncCheckpointer
from kd_bench.utils.locked_folder import LockedFolder

CPU = torch.device("cpu")


def load(folder: Path) -> dict | None:
    with LockedFolder(folder) as locked:
        return checkpoint.load(locked, CPU)


def test_what_is_saved_is_the_state_of_that_moment(tmp_path, monkeypatch):
    may_write, write = threading.Event(), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *all: may_write.wait() and write(*all))
    weight = torch.nn.Parameter(torch.zeros(3))
    with LockedFolder(tmp_path) as folder, AsyncCheckpointer(folder) as saver:
        saver.save({"learners": {"w": weight}, "list": [weight], "data": "x"}, {"a.csv": "1"})
        with torch.no_grad():
            weight.fill_(5.0)  # as the next epoch does, before anything is written
        may_write.set()
    saved = load(tmp_path)
    assert torch.equal(saved["learners"]["w"], torch.zeros(3))
    assert torch.equal(saved["list"][0], torch.zeros(3))
    assert saved["data"] == "x"
    assert (tmp_path / "a.csv").read_text() == "1"


def test_the_end_waits_for_what_is_being_written_and_the_one_before_is_kept(tmp_path):
    with LockedFolder(tmp_path) as folder, AsyncCheckpointer(folder) as saver:
        for number in range(5):
            saver.save({"number": number}, {"history.csv": str(number)})
    assert load(tmp_path) == {"number": 4}
    assert (tmp_path / "history.csv").read_text() == "4"
    (tmp_path / "checkpoint.pt").unlink()
    assert load(tmp_path) == {"number": 3}


@pytest.fixture
def full(tmp_path, monkeypatch):
    """A locked folder on a full disk, and a function that makes room."""
    flush = os.fsync

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with LockedFolder(tmp_path) as folder:
        yield folder, lambda: monkeypatch.setattr(os, "fsync", flush)


def test_what_cannot_be_written_is_raised_at_the_end(full):
    folder, _ = full
    with pytest.raises(OSError, match="No space left"), AsyncCheckpointer(folder) as saver:
        saver.save({}, {})


def test_what_cannot_be_written_is_raised_before_more_is_trained(full, tmp_path):
    folder, make_room = full
    with AsyncCheckpointer(folder) as saver:
        saver.save({}, {})
        with pytest.raises(OSError, match="No space left"):
            saver.save({}, {})
        make_room()
        saver.save({"number": 1}, {})
    assert checkpoint.load(folder, CPU) == {"number": 1}


def test_an_error_without_words_sets_a_checkpoint_aside_as_any_other(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise EOFError

    (tmp_path / "checkpoint.pt").write_bytes(b"")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.warns(UserWarning, match=r"set aside .*checkpoint\.pt\.damaged: EOFError$"):
        assert load(tmp_path) is None
