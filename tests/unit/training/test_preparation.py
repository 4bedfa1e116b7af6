"""The pass of the frozen teacher over the training set, for losses that request it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from helpers.jobs import config, job, setup_of, train, trained
from helpers.resuming import has_equal_bits, interrupt
from helpers.watching import WatchedPreparation

from kd_bench.interfaces import UserError
from kd_bench.jobs.resolve import resolve_job
from kd_bench.methods.common.method import Method
from kd_bench.training.setup import TrainingSetup

pytestmark = pytest.mark.usefixtures("one_thread")


def watched(runs: Path) -> TrainingSetup:
    """The setup of `st` with a loss that records its preparation, and adds zero to the total."""
    made = deepcopy(config(runs, "method=st"))
    target = f"{WatchedPreparation.__module__}.{WatchedPreparation.__name__}"
    made.method.losses["watch"] = {"_target_": target}
    made.method.weights["watch"] = 1.0
    return setup_of(resolve_job(made, {}))


@pytest.mark.slow
def test_a_loss_gets_the_teachers_outputs_for_all_training_images(runs, tmp_path):
    work = watched(runs)
    train(work, tmp_path)
    data, watch = work.data, work.method.losses["watch"]
    assert torch.equal(watch.labels, data.train.target)
    with torch.no_grad():
        expected = work.teacher.network(data.eval_batch(data.train, 0, data.train_size)).logits
    torch.testing.assert_close(watch.logits, expected)


@pytest.mark.slow
def test_the_pass_does_not_change_other_bits(runs, tmp_path):
    alone = train(setup_of(job(runs, "method=st")), tmp_path)
    beside = train(watched(runs), tmp_path)
    for one, other in zip(alone.history, beside.history, strict=True):
        assert one == {name: value for name, value in other.items() if name != "watch"}


@pytest.mark.parametrize("method", ["st", "at", "baseline"])
def test_there_is_no_pass_without_such_a_loss(runs, tmp_path, monkeypatch, method):
    work = setup_of(job(runs, f"method={method}"))
    monkeypatch.setattr("kd_bench.training.loop.training_outputs", None)
    train(work, tmp_path)
    assert not work.method.needs_preparation


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gkl", "nd"])
def test_a_resumed_job_makes_no_second_pass_and_has_equal_bits(
    runs, other_runs, monkeypatch, method
):
    _, whole = trained(job(runs, f"method={method}"))
    the_job = job(other_runs, f"method={method}")
    interrupt(the_job)
    monkeypatch.setattr("kd_bench.training.loop._prepare", None)
    _, parts = trained(the_job)
    assert has_equal_bits(parts, whole)


@pytest.mark.parametrize(
    ("traits", "reason"),
    [({"teacher_learns": True}, "trains its teacher"), ({"needs_teacher": False}, "has none")],
)
def test_statistics_need_a_frozen_teacher(runs, traits, reason):
    work = watched(runs)
    loss = work.method.losses["watch"]
    loss.__class__ = type("Watched", (WatchedPreparation,), traits)
    with pytest.raises(UserError, match=f"'watch' needs statistics .* {reason}$"):
        Method({"watch": loss}, {"ce": 1.0, "watch": 1.0})
