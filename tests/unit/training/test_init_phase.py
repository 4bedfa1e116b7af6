"""The init phase: small but real training runs of all methods that have one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from helpers.jobs import job, setup_of, train, trained
from helpers.shipped import choices, load

from kd_bench.jobs.job import Job
from kd_bench.jobs.runner import NullReporter, run_with_teacher

METHODS = [name for name in choices("method") if load("method", name).init.weights]
ALIKE = ("model.net.widths=[8,8,8,8]", "teacher.model.net.widths=[8,8,8,8]")

pytestmark = pytest.mark.usefixtures("one_thread")


def two_and_two(runs: Path, name: str, *overrides: str) -> Job:
    """A job with two epochs in each phase."""
    return job(runs, f"method={name}", "method.init.epochs=1", *overrides)


def history(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_history_has_both_phases_with_their_own_terms(tmp_path, name):
    job = two_and_two(tmp_path, name, *ALIKE)
    rows = history(trained(job)[1])
    assert [row["stage"] for row in rows] == ["init", "init", "main", "main"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    recipe, init = job.config.recipe, job.config.method.init
    rates = [float(row["lr"]) for row in rows[:2]]
    assert rates == pytest.approx([init.lr * recipe.lr] * 2)
    weights = {"init": init.weights, "main": job.config.method.weights}
    for row in rows:
        terms = {key.split("/")[0] for key, value in row.items() if value}
        names = {*job.config.method.losses, "ce"}
        assert terms & names == set(weights[row["stage"]])


class Stop(Exception):  # noqa: N818
    """Ends a job."""


class StopAfter(NullReporter):
    """Raises an error after an epoch."""

    def __init__(self, epoch: int):
        self.last = epoch

    def epoch(self, row, timing):
        if row["epoch"] == self.last:
            raise Stop


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_job_interrupted_in_either_phase_or_between_them_resumes_to_equal_bits(tmp_path, name):
    _, whole = trained(two_and_two(tmp_path / "whole", name, *ALIKE))
    the_job = two_and_two(tmp_path / "parts", name, *ALIKE)
    if the_job.teacher is not None:
        trained(the_job.teacher)
    for epoch in (1, 2, 3):
        with pytest.raises(Stop):
            run_with_teacher(the_job, StopAfter(epoch))
    _, parts = trained(the_job)
    assert (parts / "history.csv").read_text() == (whole / "history.csv").read_text()
    ours, theirs = (torch.load(f / "weights.pt", weights_only=True) for f in (parts, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def snapshots(runs: Path, name: str, *overrides: str) -> list[dict[str, torch.Tensor]]:
    """All parameters of student and method: before training, and after each epoch."""
    the_job = two_and_two(runs, name, *overrides)
    if the_job.teacher is not None:
        trained(the_job.teacher)
    work = setup_of(the_job)
    taken = []

    def take(*_):
        parts = {"student": work.student.net, "method": work.method}
        taken.append(
            {
                f"{part}.{key}": parameter.detach().clone()
                for part, module in parts.items()
                for key, parameter in module.named_parameters()
            }
        )

    take()
    train(work, runs, take)
    return taken


def changed(before: dict, after: dict) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


@pytest.mark.parametrize("name", ["fitnet_two_stage", "ab"])
def test_adapters_trained_in_the_init_phase_are_fixed_in_the_main_phase(tmp_path, name):
    start, _, ready, _, end = snapshots(tmp_path, name)
    adapters = {key for key in start if key.startswith("method.")}
    assert adapters
    assert adapters <= changed(start, ready)
    assert not adapters & changed(ready, end)


@pytest.mark.parametrize("name", ["fitnet_two_stage", "ab", "fsp"])
def test_the_init_phase_leaves_the_classifier_unchanged(tmp_path, name):
    # Without a gradient there is no weight decay either.
    start, _, ready, _, end = snapshots(tmp_path, name, *ALIKE)
    classifier = {"student.fc.weight", "student.fc.bias"}
    assert not classifier & changed(start, ready)
    assert classifier <= changed(ready, end)
    assert "student.conv1.weight" in changed(start, ready)


def test_the_init_phase_of_fitnet_trains_the_student_up_to_the_hint(tmp_path):
    start, _, ready, _, _ = snapshots(tmp_path, "fitnet_two_stage")
    touched = {key.split(".")[1] for key in changed(start, ready) if key.startswith("student.")}
    assert touched == {"conv1", "bn1", "layer1", "layer2"}


def test_ft_trains_the_paraphraser_in_the_init_phase_and_the_student_in_the_main_phase(tmp_path):
    start, _, ready, _, end = snapshots(tmp_path, "ft")
    first = {key.split(".")[-3] for key in changed(start, ready)}
    assert first == {"encoder", "decoder"}
    second = changed(ready, end)
    assert not any("encoder" in key or "decoder" in key for key in second)
    assert {"student.conv1.weight", "method.losses.ft.translator.0.weight"} <= second
