"""Checkpoints that are written while training goes on."""

import threading

import pytest
import torch

from kd_bench.training import checkpoint
from kd_bench.training.checkpoint import AsyncCheckpointer

CPU = torch.device("cpu")


def test_what_is_saved_is_the_state_of_that_moment(tmp_path, monkeypatch):
    may_write, write = threading.Event(), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda *all: may_write.wait() and write(*all))
    weight = torch.nn.Parameter(torch.zeros(3))
    with AsyncCheckpointer(tmp_path) as saver:
        saver.save({"learners": {"w": weight}, "list": [weight], "data": "x"}, {"a.csv": "1"})
        with torch.no_grad():
            weight.fill_(5.0)  # as the next epoch does, before anything is written
        may_write.set()
    saved = checkpoint.load(tmp_path, CPU)
    assert torch.equal(saved["learners"]["w"], torch.zeros(3))
    assert torch.equal(saved["list"][0], torch.zeros(3))
    assert saved["data"] == "x"
    assert (tmp_path / "a.csv").read_text() == "1"


def test_the_end_waits_for_what_is_being_written_and_the_one_before_is_kept(tmp_path):
    with AsyncCheckpointer(tmp_path) as saver:
        for number in range(5):
            saver.save({"number": number}, {"history.csv": str(number)})
    assert checkpoint.load(tmp_path, CPU) == {"number": 4}
    assert (tmp_path / "history.csv").read_text() == "4"
    (tmp_path / "checkpoint.pt").unlink()
    assert checkpoint.load(tmp_path, CPU) == {"number": 3}


def test_what_cannot_be_written_is_raised_at_the_end(tmp_path):
    with pytest.raises(FileNotFoundError), AsyncCheckpointer(tmp_path / "gone") as saver:
        saver.save({}, {})


def test_what_cannot_be_written_is_raised_before_more_is_trained(tmp_path):
    with AsyncCheckpointer(tmp_path / "gone") as saver:
        saver.save({}, {})
        with pytest.raises(FileNotFoundError):
            saver.save({}, {})
        (tmp_path / "gone").mkdir()
        saver.save({"number": 1}, {})
    assert checkpoint.load(tmp_path / "gone", CPU) == {"number": 1}


def test_an_error_without_words_sets_a_checkpoint_aside_as_any_other(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise EOFError

    (tmp_path / "checkpoint.pt").write_bytes(b"")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.warns(UserWarning, match=r"set aside .*checkpoint\.pt\.damaged: EOFError$"):
        assert checkpoint.load(tmp_path, CPU) is None
