"""tools/convolutions.py finds convolutions with wrong results or crashes."""

from __future__ import annotations

import os
import signal

import convolutions
import pytest


@pytest.fixture
def trial():
    return convolutions.Trial(
        0, (8, 4), kernel=3, stride=1, groups=1, batch=2, size=7, threads=1, channels_last=True
    )


def test_a_correct_convolution_passes(trial):
    assert convolutions.run_trial(trial, raw=True) < 1e-5


@pytest.mark.slow
def test_a_trial_that_is_wrong_or_crashes_is_reported(trial, monkeypatch):
    def killed(trial, raw):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(convolutions, "run_trial", lambda trial, raw: 0.5)
    assert convolutions.outcome(trial, raw=True) == "off by 0.5"
    monkeypatch.setattr(convolutions, "run_trial", killed)
    assert convolutions.outcome(trial, raw=True) == "killed by SIGKILL"


@pytest.mark.slow
def test_the_exit_code_is_1_if_any_trial_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(convolutions, "run_trial", lambda trial, raw: 0.0)
    assert convolutions.main(["--trials", "3"]) == 0
    monkeypatch.setattr(convolutions, "run_trial", lambda trial, raw: float(trial.threads == 1))
    assert convolutions.main(["--trials", "10"]) == 1
    assert "of 10 are wrong" in capsys.readouterr().out
