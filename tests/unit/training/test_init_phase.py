"""The init phase: short but real training runs of all methods that have one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from helpers.jobs import job, setup_of, train, trained
from helpers.resuming import has_equal_bits, interrupt
from helpers.shipped import choices, load

from kd_bench.jobs.job import Job

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
def test_the_history_has_both_phases_with_their_own_terms(runs, name):
    job = two_and_two(runs, name, *ALIKE)
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


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_job_interrupted_in_and_between_its_phases_resumes_to_equal_bits(runs, other_runs, name):
    _, whole = trained(two_and_two(runs, name, *ALIKE))
    the_job = two_and_two(other_runs, name, *ALIKE)
    interrupt(the_job, after=(1, 2, 3))
    _, parts = trained(the_job)
    assert has_equal_bits(parts, whole)


def snapshots(runs: Path, name: str, *overrides: str) -> list[dict[str, torch.Tensor]]:
    """All parameters of student and method: before training, and after each epoch."""
    work, taken = setup_of(two_and_two(runs, name, *overrides)), []

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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fitnet_two_stage", "ab"])
def test_adapters_trained_in_the_init_phase_are_frozen_in_the_main_phase(runs, name):
    start, _, ready, _, end = snapshots(runs, name)
    adapters = {key for key in start if key.startswith("method.")}
    assert adapters
    assert adapters <= changed(start, ready)
    assert not adapters & changed(ready, end)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fitnet_two_stage", "ab", "fsp"])
def test_the_init_phase_does_not_change_the_classifier(runs, name):
    # Without a gradient, there is no weight decay either.
    start, _, ready, _, end = snapshots(runs, name, *ALIKE)
    classifier = {"student.fc.weight", "student.fc.bias"}
    assert not classifier & changed(start, ready)
    assert classifier <= changed(ready, end)
    assert "student.conv1.weight" in changed(start, ready)


@pytest.mark.slow
def test_the_init_phase_of_fitnet_trains_the_student_up_to_the_hint(runs):
    start, _, ready, _, _ = snapshots(runs, "fitnet_two_stage")
    touched = {key.split(".")[1] for key in changed(start, ready) if key.startswith("student.")}
    assert touched == {"conv1", "bn1", "layer1", "layer2"}


@pytest.mark.slow
def test_ft_trains_the_paraphraser_in_the_init_phase_and_the_student_in_the_main_phase(runs):
    start, _, ready, _, end = snapshots(runs, "ft")
    first = {key.split(".")[-3] for key in changed(start, ready)}
    assert first == {"encoder", "decoder"}
    second = changed(ready, end)
    assert not any("encoder" in key or "decoder" in key for key in second)
    assert {"student.conv1.weight", "method.losses.ft.translator.0.weight"} <= second
