"""Checkpoints that are written while training continues."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from kd_bench.training import checkpoint
from kd_bench.training.checkpoint import AsyncCheckpointer
from kd_bench.utils.locked_folder import LockedFolder

JOB = "digits/none-resnet8/baseline/3f9c1a2b/seed0"


def load(folder: Path, job: str = JOB) -> dict | None:
    with LockedFolder(folder) as locked:
        return checkpoint.load(locked, job)


def test_a_checkpoint_has_the_state_at_the_time_of_the_call(tmp_path, monkeypatch):
    may_write, write = threading.Event(), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *all: may_write.wait() and write(*all))
    weight = torch.nn.Parameter(torch.zeros(3))
    with LockedFolder(tmp_path) as folder, AsyncCheckpointer(folder, JOB) as saver:
        saver.save({"learners": {"w": weight}, "list": [weight], "data": "x"}, {"a.csv": "1"})
        with torch.no_grad():
            weight.fill_(5.0)  # as the next epoch may, before anything is written
        may_write.set()
    saved = load(tmp_path)
    assert torch.equal(saved["learners"]["w"], torch.zeros(3))
    assert torch.equal(saved["list"][0], torch.zeros(3))
    assert saved["data"] == "x"
    assert (tmp_path / "a.csv").read_text() == "1"


def test_the_end_waits_for_the_last_checkpoint_and_the_previous_one_is_kept(tmp_path):
    with LockedFolder(tmp_path) as folder, AsyncCheckpointer(folder, JOB) as saver:
        for number in range(5):
            saver.save({"number": number}, {"history.csv": str(number)})
    assert load(tmp_path) == {"number": 4}
    assert (tmp_path / "history.csv").read_text() == "4"
    (tmp_path / "checkpoint.pt").unlink()
    assert load(tmp_path) == {"number": 3}


@pytest.fixture
def full(tmp_path, monkeypatch):
    """A locked folder on a full disk, and a function that frees space."""
    flush = os.fsync

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with LockedFolder(tmp_path) as folder:
        yield folder, lambda: monkeypatch.setattr(os, "fsync", flush)


def test_a_write_error_is_raised_at_the_end(full):
    folder, _ = full
    with pytest.raises(OSError, match="No space left"), AsyncCheckpointer(folder, JOB) as saver:
        saver.save({}, {})


def test_a_write_error_is_raised_before_the_next_checkpoint(full, tmp_path):
    folder, free_space = full
    with AsyncCheckpointer(folder, JOB) as saver:
        saver.save({}, {})
        with pytest.raises(OSError, match="No space left"):
            saver.save({}, {})
        free_space()
        saver.save({"number": 1}, {})
    assert checkpoint.load(folder, JOB) == {"number": 1}


# Damaged files


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder with the checkpoints of two epochs."""
    with LockedFolder(tmp_path) as folder, AsyncCheckpointer(folder, JOB) as saver:
        for epoch in (1, 2):
            saver.save({"epoch": epoch, "weight": torch.rand(1000)}, {})
    return tmp_path


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


DAMAGES = {
    "emptied": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "text": lambda content: b"not what it was",
    "zeros in the middle": lambda content: content[:2000] + bytes(100) + content[2100:],
    "4 kB too many": lambda content: content + bytes(4096),
    "of version 0.1": lambda content: content.partition(b"\n")[2],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_previous_one_used(saved, damage):
    path = saved / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"set aside .*checkpoint\.pt\.damaged: it"):
        assert load(saved)["epoch"] == 1
    assert {path.name for path in saved.iterdir()} == {
        "checkpoint.pt.damaged",
        "checkpoint_before.pt",
    }


@pytest.mark.slow
def test_one_flipped_bit_anywhere_is_detected(saved):
    path, before = saved / "checkpoint.pt", saved / "checkpoint_before.pt"
    whole, older = path.read_bytes(), before.read_bytes()
    for at in [*range(0, 200, 5), *range(200, len(whole), 211)]:
        path.write_bytes(flip(whole, at))
        before.write_bytes(older)
        with pytest.warns(UserWarning, match="set aside"):
            assert load(saved)["epoch"] == 1


@pytest.mark.parametrize(
    "other", [JOB.replace("seed0", "seed1"), JOB.replace("3f9c1a2b", "00000000")]
)
def test_the_checkpoint_of_another_job_is_set_aside(saved, other):
    with pytest.warns(UserWarning, match=f"damaged: it belongs to another job, {JOB}"):
        assert load(saved, other) is None


def test_a_checkpoint_of_a_newer_version_is_set_aside(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 0)
    with pytest.warns(UserWarning, match="it has format 1, and this version of kd-bench reads 0"):
        assert load(saved) is None


def test_an_error_without_a_message_also_sets_a_checkpoint_aside(saved, monkeypatch):
    def fail(*_, **__):
        raise EOFError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.warns(UserWarning, match=r"set aside .*checkpoint\.pt\.damaged: EOFError$"):
        assert load(saved) is None
