"""The processes of one job: what they compute together is what one alone computes."""

from __future__ import annotations

import pytest
from helpers.jobs import job, trained
from helpers.several_processes import train_all, train_steps

from kd_bench.training.distributed.launch import launch
from kd_bench.training.distributed.ranks import Ranks

METHODS = ["st", "at", "rkd", "crd"]
STEPS = 21  # of 7 epochs of 40 images in batches of 16, 16 and 8


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """By method: what one process computes, and what two compute."""
    runs = tmp_path_factory.mktemp("runs")
    jobs = [job(runs, f"method={name}", "recipe.epochs=7", "speed=reference") for name in METHODS]
    for teacher in jobs[0].teachers:
        trained(teacher)
    alone = [train_steps(Ranks(), each) for each in jobs]
    return dict(zip(METHODS, zip(alone, launch(2, train_all, jobs), strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_have_the_losses_of_one(losses, method):
    (alone, _), (together, _) = losses[method]
    assert len(alone) == STEPS
    assert together == pytest.approx(alone, rel=1e-8)
    assert len(set(alone)) == STEPS
