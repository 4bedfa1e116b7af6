"""kd-bench status: the progress of sweeps, read from their files."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from helpers.damage import damaged
from helpers.jobs import TINY, config
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_bench.jobs.job import write_jobs
from kd_bench.jobs.status import JobStatus, progress_text, read_progress
from kd_bench.sweep import prepare
from kd_bench.utils.errors import DamagedError
from kd_bench.utils.lock import Lock


@pytest.fixture
def started(finished, tmp_path):
    """The jobs of a started sweep, two of which are done."""
    sets = [["method=st", f"seed={seed}"] for seed in range(4)]
    jobs = prepare.prepare_jobs([(config(tmp_path / "runs", *overrides), {}) for overrides in sets])
    write_jobs(jobs, "mine-0a1b2c3d")
    return jobs


def begin(folder, epoch=1, seconds=2.0):
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text(f"epoch,test_accuracy\n{epoch},62.5\n")
    row = f"{epoch},{seconds - 0.5},0.5,1234.5"
    (folder / "timing.csv").write_text(f"epoch,train,evaluation,images_per_second\n{row}\n")


def test_done_running_failed_and_pending_jobs_are_counted_and_listed(kd_bench, started):
    _, _, runs, failed, _ = started
    begin(runs.path)
    failed.path.mkdir()
    (failed.path / "error.txt").write_text("killed by SIGKILL\n")
    with Lock(runs.path):
        code, printed = kd_bench("status")
    head, running, failure = printed.splitlines()
    assert code == 0
    assert head.startswith("mine-0a1b2c3d: 2 done, 1 running, 1 failed, 1 pending; about ")
    assert head.endswith(" left")
    assert running.startswith(f"  {runs.label}: epoch 1/2 62.50 % 1,234 images/s, 2 s left (pr")
    assert failure == f"  {failed.label}: FAILED: killed by SIGKILL; see runs/{failed.folder}"


def test_a_running_job_without_a_finished_epoch_is_starting(kd_bench, started):
    started[2].path.mkdir()
    with Lock(started[2].path):
        _, printed = kd_bench("status")
    assert f"  {started[2].label}: starting (process {os.getpid()} on " in printed


def test_students_of_a_failed_teacher_count_as_failed(kd_bench, tmp_path):
    jobs = prepare.prepare_jobs([(config(tmp_path / "runs", "method=st"), {})])
    write_jobs(jobs, "mine")
    jobs[0].path.mkdir(parents=True)
    (jobs[0].path / "error.txt").write_text("FloatingPointError: the loss is not finite\n")
    _, printed = kd_bench("status")
    assert "mine: 0 done, 0 running, 2 failed, 0 pending" in printed
    assert f"FAILED: its teacher failed: {jobs[0].folder}" in printed


def test_a_job_locked_by_a_dead_process_is_not_running(kd_bench, started):
    folder = started[2].path
    folder.mkdir()
    code = (
        "import os, sys; from pathlib import Path; from kd_bench.utils.lock import Lock\n"
        "Lock(Path(sys.argv[1])).__enter__(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, folder], check=True)
    assert list(folder.glob("lock/*"))
    _, printed = kd_bench("status")
    assert "2 done, 0 running, 0 failed, 3 pending" in printed


def test_a_lock_of_another_host_counts_while_its_heartbeat_is_recent(kd_bench, started):
    folder = started[2].path
    (folder / "lock").mkdir(parents=True)
    owner = folder / "lock" / "elsewhere~1,77,5"
    owner.touch()
    _, printed = kd_bench("status")
    assert "starting (process 77 on elsewhere)" in printed
    os.utime(owner, (0, 0))
    _, printed = kd_bench("status")
    assert "0 running" in printed


def test_sweeps_are_chosen_by_a_prefix_of_their_names(kd_bench, started):
    write_jobs(started[:1], "other-00000000")
    assert kd_bench("status")[1].count(" done, ") == 2
    assert kd_bench("status", "mi")[1].splitlines()[0].startswith("mine-0a1b2c3d: 2 done")
    assert (
        kd_bench("status", "other")[1] == "other-00000000: 1 done, 0 running, 0 failed, 0 pending\n"
    )


def test_another_runs_folder_can_be_given_in_either_spelling(kd_bench, started, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    for typed in (["runs_dir=elsewhere"], ["--runs-dir", "elsewhere"], ["--runs-dir=elsewhere"]):
        assert "2 done, 0 running, 0 failed, 3 pending" in kd_bench("status", *typed)[1]


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["quick"], "unknown sweep 'quick' in runs; choose from mine-0a1b2c3d"),
        (["runs_dir=none"], "there is no folder none; choose the runs with runs_dir=DIR"),
        (["mine", "other"], "unrecognized arguments: other; usage: kd-bench status [-h]"),
        (["--run-dir", "x"], "unrecognized arguments: --run-dir"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_in_one_line(kd_bench, started, typed, answer):
    code, printed = kd_bench("status", *typed)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed


def test_a_folder_without_sweeps_is_reported(kd_bench, finished):
    code, printed = kd_bench("status")
    assert (code, printed.count("\n")) == (2, 1)
    assert "no sweep was started in runs" in printed


def test_a_sweep_file_of_another_version_is_reported(kd_bench, started, tmp_path):
    (tmp_path / "runs" / ".sweeps" / "old.jsonl").write_text('{"folder": "a/b/c/d/seed0"}\n')
    code, printed = kd_bench("status", "old")
    assert (code, printed.count("\n")) == (2, 1)
    expected = "runs/.sweeps/old.jsonl is damaged, or was written by another version of kd-bench"
    assert f"{expected}; delete it: the jobs stay" in printed
    code, printed = kd_bench("status")
    assert (code, len(printed.splitlines())) == (0, 2)
    assert "\nmine-0a1b2c3d: 2 done" in f"\n{printed}"


@pytest.mark.slow
def test_damaged_files_of_a_job_are_reported_and_other_jobs_are_listed(kd_bench, started, finished):
    student, _ = finished
    (student / "result.json").write_text('{"format"')
    _, _, runs, *_ = started
    begin(runs.path)
    (runs.path / "timing.csv").write_text("")
    with Lock(runs.path):
        code, printed = kd_bench("status")
        assert code == 0
        head, running, *damage = printed.splitlines()
        assert head == "mine-0a1b2c3d: 1 done, 1 running, 0 failed, 3 pending"
        assert running.startswith(f"  {runs.label}: starting (process ")
        assert len(damage) == 2
        assert f"runs/{started[1].folder}/result.json is not a valid record: " in damage[0]
        assert damage[1].endswith(f"/{runs.folder}/timing.csv is damaged; its job will rewrite it")
        planned = kd_bench("plan", *TINY, "method=st")[1]
        assert f"seed 0: to do, time unknown; runs/{started[1].folder}/result.json is no" in planned


def test_a_job_with_a_record_of_a_later_version_counts_as_failed(kd_bench, started, finished):
    (finished[0] / "result.json").write_text('{"format": 2}')
    _, printed = kd_bench("status")
    assert "1 done, 0 running, 1 failed, 3 pending" in printed
    assert "FAILED: runs/" in printed
    assert "/result.json is a record of format 2, but this version of kd-bench reads 1;" in printed


HISTORY = b"stage,epoch,test_accuracy\nmain,1,62.5\nmain,2,70.0\n"
TIMING = b"epoch,train,evaluation,images_per_second\n1,1.5,0.5,1234.5\n2,1.4,0.5,1300.0\n"


@pytest.mark.slow
@settings(deadline=None)
@given(st.data(), st.sampled_from(["history.csv", "timing.csv"]))
def test_damaged_progress_is_reported_or_shown_as_finite_numbers(data, name):
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        (Path(folder) / "history.csv").write_bytes(HISTORY)
        (Path(folder) / "timing.csv").write_bytes(TIMING)
        path.write_bytes(data.draw(damaged(path.read_bytes())))
        try:
            progress, refusal = read_progress(Path(folder)), None
        except DamagedError as error:
            progress, refusal = None, str(error)
    if progress is None:
        assert refusal == f"{path} is damaged; its job will rewrite it"
    else:
        text = progress_text(SimpleNamespace(epochs=3), JobStatus("running", progress=progress))
        assert "nan" not in text


@pytest.mark.slow
def test_neither_hydra_nor_torch_is_imported(started, tmp_path):
    code = (
        "import sys; sys.argv = ['kd-bench', 'status']\n"
        "from kd_bench.cli.main import main; main()\n"
        "print(sorted({'torch', 'hydra', 'omegaconf', 'pandas', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
