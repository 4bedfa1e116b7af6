"""Jobs by recipes with more than SGD: resumed, captured, and without waiting for the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.graph_guard import guarded, on_meta
from helpers.jobs import job, setup_of, trained

from kd_bench.jobs.job import Job
from kd_bench.jobs.runner import NullReporter, run_with_teacher
from kd_bench.training import cuda_graph, device
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import TrainingSetup, phases

ADAMW = ("recipe.optimizer=adamw", "recipe.nesterov=false", "recipe.lr=0.001")
RECIPES = {
    "adamw": (*ADAMW, "recipe.decay_vectors=false"),
    "lamb": ("recipe.optimizer=lamb", "recipe.nesterov=false", "recipe.decay_vectors=false"),
    "ema": ("recipe.ema=0.5",),
    "mixed": ("recipe.mixup=0.8", "recipe.cutmix=1.0", "recipe.label_smoothing=0.1"),
    "accumulate": ("recipe.accumulate=2", "recipe.ema=0.5"),
}
each_recipe = pytest.mark.parametrize("chosen", RECIPES.values(), ids=RECIPES)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    device.configure_process(1)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs that the tests of this file share, so the teacher is trained once."""
    return tmp_path_factory.mktemp("runs")


def student_job(runs: Path, *chosen: str) -> Job:
    """A student of `st` by a recipe; its teacher, whose recipe is another, is trained once."""
    return job(runs, "method=st", "recipe@teacher.recipe=quickstart_teacher", *chosen)


def main_runner(work: TrainingSetup) -> EpochRunner:
    return EpochRunner(work, phases(work)[-1])


class Stop(Exception):  # noqa: N818
    """Ends a job."""


class StopAfterOneEpoch(NullReporter):
    def epoch(self, row, timing):
        raise Stop


@pytest.mark.slow
@each_recipe
def test_a_job_resumes_to_equal_bits(tmp_path, chosen):
    _, whole = trained(student_job(tmp_path / "whole", *chosen))
    the_job = student_job(tmp_path / "parts", *chosen)
    trained(the_job.teacher)
    with pytest.raises(Stop):
        run_with_teacher(the_job, StopAfterOneEpoch())
    _, parts = trained(the_job)
    assert (parts / "history.csv").read_text() == (whole / "history.csv").read_text()
    ours, theirs = (torch.load(f / "weights.pt", weights_only=True) for f in (parts, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@each_recipe
def test_no_step_needs_the_host(runs, chosen):
    runner = main_runner(on_meta(setup_of(student_job(runs, *chosen))))
    runner._begin(epoch=1)
    for kind in runner.step_kinds:
        with guarded():
            runner._step(kind)()


@each_recipe
def test_warm_up_steps_before_a_capture_leave_no_trace(runs, monkeypatch, chosen):
    warmed_up = lambda function, state: (cuda_graph.warm_up(function, state), function)[1]  # noqa: E731
    monkeypatch.setattr(cuda_graph, "capture_graph", warmed_up)
    eager, captured = (setup_of(student_job(runs, *chosen)) for _ in range(2))
    captured.execution = replace(captured.execution, captured=True)
    rows = [main_runner(work).run(1) for work in (eager, captured)]
    assert rows[0] == rows[1]
    one, other = (work.student.state_dict() for work in (eager, captured))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_batches_that_are_accumulated_make_one_update_and_the_epochs_last_ones_another(runs):
    work = setup_of(student_job(runs, "recipe.accumulate=2"))
    runner, weight = main_runner(work), work.student.net.fc.weight
    before, changes, sizes = weight.detach().clone(), [], []
    for size in runner.steps(1):
        sizes.append(size)
        changes.append(not torch.equal(weight, before))
        before = weight.detach().clone()
    assert sizes == [16, 16, 8]
    assert changes == [False, True, True]
