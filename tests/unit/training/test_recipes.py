"""Jobs whose recipes use more than SGD: resumed, captured, and without waiting for the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.graph_guard import guarded, on_meta
from helpers.jobs import job, setup_of, trained
from helpers.resuming import has_equal_bits, interrupt

from kd_bench.jobs.job import Job
from kd_bench.training import cuda_graph
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import TrainingSetup, phases

ADAMW = ("recipe.optimizer=adamw", "recipe.nesterov=false", "recipe.lr=0.001")
RECIPES = {
    "adamw": (*ADAMW, "recipe.decay_vectors=false"),
    "lamb": ("recipe.optimizer=lamb", "recipe.nesterov=false", "recipe.decay_vectors=false"),
    "ema": ("recipe.ema=0.5",),
    "mixed": ("recipe.mixup=0.8", "recipe.cutmix=1.0", "recipe.label_smoothing=0.1"),
    "bce": ("recipe.label_loss=bce", "recipe.target_threshold=0.2", "recipe.mixup=0.8"),
    "erased": ("recipe.erasing.probability=0.5", "recipe.repeated_augmentation=3"),
    "accumulate": ("recipe.accumulate=2", "recipe.ema=0.5"),
}
each_recipe = pytest.mark.parametrize("chosen", RECIPES.values(), ids=RECIPES)


pytestmark = pytest.mark.usefixtures("one_thread")


def student_job(runs: Path, *chosen: str) -> Job:
    """A student of `st` with a recipe; its teacher has another recipe and is trained once."""
    return job(runs, "method=st", "recipe@teacher.recipe=quickstart_teacher", *chosen)


def main_runner(work: TrainingSetup) -> EpochRunner:
    return EpochRunner(work, phases(work)[-1])


@pytest.mark.slow
@each_recipe
def test_a_job_resumes_to_equal_bits(runs, other_runs, chosen):
    _, whole = trained(student_job(runs, *chosen))
    the_job = student_job(other_runs, *chosen)
    interrupt(the_job)
    _, parts = trained(the_job)
    assert has_equal_bits(parts, whole)


@pytest.mark.slow
@each_recipe
def test_no_step_needs_the_host(runs, chosen):
    runner = main_runner(on_meta(setup_of(student_job(runs, *chosen))))
    runner._begin(epoch=1)
    for kind in runner.step_kinds:
        with guarded():
            runner._step(kind)()


@pytest.mark.slow
@each_recipe
def test_warm_up_steps_before_a_capture_have_no_effect(runs, monkeypatch, chosen):
    warmed_up = lambda function, state: (cuda_graph.warm_up(function, state), function)[1]  # noqa: E731
    monkeypatch.setattr(cuda_graph, "capture_graph", warmed_up)
    eager, captured = (setup_of(student_job(runs, *chosen)) for _ in range(2))
    captured.execution = replace(captured.execution, captured=True)
    rows = [main_runner(work).run(1) for work in (eager, captured)]
    assert rows[0] == rows[1]
    one, other = (work.student.state_dict() for work in (eager, captured))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_accumulated_batches_make_one_update_and_the_last_batches_of_an_epoch_another(runs):
    work = setup_of(student_job(runs, "recipe.accumulate=2"))
    runner, weight = main_runner(work), work.student.net.fc.weight
    before, changes, sizes = weight.detach().clone(), [], []
    for size in runner.steps(1):
        sizes.append(size)
        changes.append(not torch.equal(weight, before))
        before = weight.detach().clone()
    assert sizes == [16, 16, 8]
    assert changes == [False, True, True]
