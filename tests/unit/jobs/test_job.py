"""Jobs that were prepared by a sweep, and damaged records and sweep files."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers.jobs import TINY, job, rewrite_record, trained
from helpers.shell import run

from kd_bench.config import identity
from kd_bench.config.schema import RecipeConfig
from kd_bench.jobs.assemble import assemble_setup
from kd_bench.jobs.job import Job, read_job, read_jobs, write_jobs
from kd_bench.jobs.worker import run_job
from kd_bench.methods.dot import DistillationOriented
from kd_bench.methods.plugins.sort import SortedTeacher
from kd_bench.methods.simkd import ReusedClassifier
from kd_bench.methods.st import SoftTarget
from kd_bench.results.run_folder import read_record
from kd_bench.utils.errors import DamagedError, UserError


@dataclass
class OtherDefaults(RecipeConfig):
    momentum: float = 0.5
    weight_decay: float = 1.0


# The folder is fixed when the sweep is prepared


@pytest.fixture
def frozen(tmp_path, monkeypatch) -> tuple[Job, Path]:
    """A job whose teacher is done, and the sweep file in which it is."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # a worker adds the current folder
    the_job = job(tmp_path, "method=st")
    trained(the_job.teacher)
    return the_job, write_jobs([the_job], "sweep")


def students(folder: Path) -> list[Path]:
    """The folders of all jobs that have a teacher."""
    return list(folder.glob("synthetic/resnet*/st/*/seed0"))


@pytest.mark.slow
def test_a_worker_uses_the_prepared_folder_even_if_defaults_have_changed(
    frozen, tmp_path, monkeypatch
):
    the_job, file = frozen
    monkeypatch.setattr(identity, "RecipeConfig", OtherDefaults)
    monkeypatch.setattr(identity, "EXECUTION_KEYS", ("speed", "device"))
    assert job(tmp_path, "method=st").folder != the_job.folder  # if it were prepared now
    assert run_job(file, 0) == 0
    assert students(tmp_path) == [the_job.path]
    record = read_record(the_job.path)
    assert (record.folder, record.identity) == (the_job.folder, the_job.identity)
    assert f"/{record.digest}/" in record.folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choices", "part", "name"),
    [
        (["method=st", "rule=dot"], DistillationOriented, "rule.dot"),
        (["method=simkd"], ReusedClassifier, "method.head"),
        (["method=st", "plugin=sort"], SortedTeacher, "plugins.sort"),
    ],
)
def test_a_method_with_a_revised_part_is_another_job(tmp_path, monkeypatch, choices, part, name):
    before = job(tmp_path, *choices)
    assert before.traits.revisions[name] == 1
    assert "revisions" not in before.identity
    monkeypatch.setattr(part, "revision", 2)
    after = job(tmp_path, *choices)
    assert after.identity == {**before.identity, "revisions": {name: 2}}
    assert after.folder != before.folder
    with pytest.raises(UserError, match=f"'{name}' was revised since this job was prepared"):
        assemble_setup(before, torch.device("cpu"))


@pytest.mark.slow
def test_a_worker_records_nothing_when_a_loss_was_revised(frozen, tmp_path, monkeypatch):
    the_job, file = frozen
    monkeypatch.setattr(SoftTarget, "revision", SoftTarget.revision + 1)
    assert job(tmp_path, "method=st").folder != the_job.folder
    with pytest.raises(UserError, match="'st' was revised since this job was prepared"):
        run_job(file, 0)
    assert students(tmp_path) == [the_job.path]
    assert {path.name for path in the_job.path.iterdir()} == {"error.txt"}


# Damage


@pytest.mark.slow
def test_a_job_whose_record_is_damaged_runs_again_to_the_same_accuracy(kd_bench, finished):
    student, _ = finished
    record, history = (student / name for name in ("result.json", "history.csv"))
    before, rows = json.loads(record.read_bytes()), history.read_text()
    record.write_bytes(record.read_bytes()[:200])
    code, printed = kd_bench(*TINY, "method=st")
    assert code == 0
    assert f"kept as runs/{before['folder']}/result.json.damaged; running again" in printed
    assert json.loads(record.read_bytes())["accuracy"] == before["accuracy"]
    assert history.read_text() == rows
    assert record.with_name("result.json.damaged").stat().st_size == 200


@pytest.mark.slow
def test_a_sweep_runs_jobs_with_damaged_records_again_and_reports_it(finished, tmp_path):
    for folder in finished:
        (folder / "result.json").write_text("")
    code, printed = run(tmp_path, "-m", *TINY, "method=st", "seed=0")
    assert code == 0, printed
    assert printed.count(": running again, because runs/") == 2
    assert printed.count(": done: ") == 2
    assert all((folder / "result.json.damaged").exists() for folder in finished)


def test_a_job_with_the_record_of_another_job_is_not_done(finished, tmp_path):
    student, teacher = finished
    one = job(tmp_path / "runs", "method=st")
    assert one.is_done
    shutil.copy(teacher / "result.json", student / "result.json")
    with pytest.raises(DamagedError, match=r"/result\.json is the record of synthetic/none-"):
        one.read_record()
    assert not one.is_done


@pytest.mark.slow
def test_a_record_of_a_later_version_is_neither_used_nor_overwritten(kd_bench, finished):
    student, _ = finished
    rewrite_record(student, format=2)
    before = (student / "result.json").read_bytes()
    code, printed = kd_bench(*TINY, "method=st")
    assert (code, printed.count("\n")) == (2, 1), printed
    assert "record of format 2, but this version of kd-bench reads 1; use the version" in printed
    assert (student / "result.json").read_bytes() == before


def test_a_sweep_file_truncated_after_a_job_is_refused(tmp_path):
    file = write_jobs([job(tmp_path, "method=baseline", f"seed={k}") for k in (0, 1)], "mine")
    lines = file.read_text().splitlines(keepends=True)
    assert len(read_jobs(file)) == 2
    file.write_text(lines[0])
    for read in (read_jobs, lambda path: read_job(path, 0)):
        with pytest.raises(UserError, match=r"mine\.jsonl is damaged, .* delete it: the jobs stay"):
            read(file)
    file.unlink()
    with pytest.raises(UserError, match=r"cannot read .*mine\.jsonl: No such file"):
        read_job(file, 0)
