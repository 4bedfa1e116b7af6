"""A frozen job and the process that runs it agree about its folder, whatever changes in between."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.jobs import job, trained

from kd_bench.config import identity
from kd_bench.config.schema import RecipeConfig
from kd_bench.jobs.job import Job, write_jobs
from kd_bench.jobs.worker import run_job
from kd_bench.methods.st import SoftTarget
from kd_bench.results.run_folder import read_record
from kd_bench.utils.errors import UserError


@dataclass
class OtherDefaults(RecipeConfig):
    momentum: float = 0.5
    weight_decay: float = 1.0


@pytest.fixture
def frozen(tmp_path, monkeypatch) -> tuple[Job, Path]:
    """A job whose teacher is done, and the sweep's file that it was written to."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # a worker adds the current folder
    the_job = job(tmp_path, "method=st")
    trained(the_job.teacher)
    return the_job, write_jobs([the_job], "sweep")


def students(folder: Path) -> list[Path]:
    """The folders of all jobs that have a teacher."""
    return list(folder.glob("synthetic/resnet*/st/*/seed0"))


def test_a_worker_works_in_the_frozen_folder_when_defaults_have_changed(
    frozen, tmp_path, monkeypatch
):
    the_job, file = frozen
    monkeypatch.setattr(identity, "RecipeConfig", OtherDefaults)
    monkeypatch.setattr(identity, "EXECUTION_KEYS", ("speed", "device"))
    assert job(tmp_path, "method=st").folder != the_job.folder  # what would be typed now
    assert run_job(file, 0) == 0
    assert students(tmp_path) == [the_job.path]
    record = read_record(the_job.path)
    assert (record.folder, record.identity) == (the_job.folder, the_job.identity)
    assert f"/{record.digest}/" in record.folder


def test_a_worker_records_nothing_when_a_loss_was_revised(frozen, tmp_path, monkeypatch):
    the_job, file = frozen
    monkeypatch.setattr(SoftTarget, "revision", SoftTarget.revision + 1)
    assert job(tmp_path, "method=st").folder != the_job.folder
    with pytest.raises(UserError, match="loss 'st' was revised since this job was prepared"):
        run_job(file, 0)
    assert students(tmp_path) == [the_job.path]
    assert {path.name for path in the_job.path.iterdir()} == {"error.txt"}
