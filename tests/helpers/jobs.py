"""Tiny jobs for tests, composed from conf/ as by the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from helpers.shipped import load, stands_alone
from kd_bench.config import compose
from kd_bench.config.compose import Composed
from kd_bench.config.schema import Config
from kd_bench.data.source import Description
from kd_bench.jobs.assemble import assemble_setup
from kd_bench.jobs.job import Job
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.runner import NullReporter, run_with_teacher
from kd_bench.results.record import CHECKSUM, Record
from kd_bench.results.run_folder import RESULT
from kd_bench.sweep.launchers import registry as launchers
from kd_bench.training import checkpoint, loop
from kd_bench.training.loop import Progress, Report
from kd_bench.training.setup import TrainingSetup
from kd_bench.utils.locked_folder import LockedFolder

IMAGES = (
    "dataset=synthetic",
    "dataset.source.train=40",
    "dataset.source.test=24",
    "dataset.source.num_classes=4",
    "dataset.source.size=8",
)
NETS = (
    "pair=resnet20-resnet8_half",
    "model.net.widths=[8,8,16,16]",
    "teacher.model.net.depth=8",
    "recipe=quickstart",
    "recipe.epochs=2",
    "recipe.batch_size=16",
    "teacher.recipe.epochs=1",
    "tensorboard=false",
    "device=cpu",  # even on a machine with a GPU
)
TINY = (*IMAGES, *NETS)
FOUR_CLASSES = Description(4, 8, 8, 40, 24)  # of IMAGES
FOR_FOUR_CLASSES = {"gdkd": ("method.losses.gdkd.k=2",)}
# A student without a distillation token uses its classifier for both heads.
FOR_ANY_STUDENT = {
    "deit_token": ('+model.stages={class_head:fc,token_head:fc,pooled:"fc:input"}',),
}


def of_method(name: str) -> tuple[str, ...]:
    """The overrides that choose a method, with those it needs for 4 classes and any student."""
    return (f"method={name}", *FOR_FOUR_CLASSES.get(name, ()), *FOR_ANY_STUDENT.get(name, ()))


_composer = compose.Composer()  # composes each set of choices once


@cache
def composed(*overrides: str) -> Composed:
    """A job's configuration and its changes; cached, so do not modify it."""
    launchers.register()
    with compose.initialized():
        return _composer.job(overrides)


@cache
def configured(*overrides: str) -> Config:
    """The configuration from `composed`, without a composition for each method.

    A method whose file refers to no other one is inserted into the baseline's configuration.
    """
    names = [each.removeprefix("method=") for each in overrides if each.startswith("method=")]
    others = [each for each in overrides if not each.startswith("method=")]
    is_changed = any(each.startswith(("method.", "plugin", "rule")) for each in others)
    if is_changed or len(names) != 1 or not stands_alone("method", *names):
        return composed(*overrides)[0]
    (name,) = names
    return replace(composed("method=baseline", *others)[0], method=load("method", name))


def config(runs_dir: Path, *overrides: str) -> Config:
    """A tiny job's configuration; `overrides` are applied last."""
    return replace(configured(*TINY, *overrides), runs_dir=str(runs_dir))


def job(runs_dir: Path, *overrides: str) -> Job:
    """A tiny job whose values do not count as changed."""
    return resolve_job(config(runs_dir, *overrides), {})


def trained(job: Job) -> tuple[Record, Path]:
    """Run a job after its teacher's; returns its record and its folder."""
    record, _ = run_with_teacher(job, NullReporter())
    return record, job.path


def setup_of(job: Job) -> TrainingSetup:
    """The training setup of a job, on the CPU; its teachers are trained first."""
    for teacher in job.teachers:
        trained(teacher)
    return assemble_setup(job, torch.device("cpu"))


def train(setup: TrainingSetup, folder: Path, report: Report = lambda *_: None) -> Progress:
    """Run the training loop in a folder, and remove its checkpoint afterwards."""
    with LockedFolder(folder) as locked:
        progress = loop.train(setup, locked, report)
        checkpoint.remove(locked)
    return progress


def rewrite_record(job_folder: Path, **values: Any) -> None:
    """Overwrite top-level values in a job's result.json."""
    path = job_folder / RESULT
    plain = json.loads(path.read_text())
    plain.pop(CHECKSUM, None)
    path.write_text(json.dumps(plain | values))
