"""How a sweep handles failing jobs: on_error and retries."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from helpers import written_records
from helpers.jobs import TINY, job
from helpers.shell import results, run

from kd_bench.jobs.job import read_jobs, write_jobs
from kd_bench.results.run_folder import ERROR, RESULT
from kd_bench.sweep.display import SweepDisplay
from kd_bench.sweep.retry import OUT_OF_MEMORY, OnError, RetryPolicy
from kd_bench.sweep.scheduler import Sweep
from kd_bench.utils.errors import ProcessLost, error_text, failure_reason

DONE = "done"
ENDLESS = None  # runs until it receives a signal
KILLED = -signal.SIGKILL


class FakeProcess:
    """Has ended with an exit code, or ends with the first signal that it receives."""

    def __init__(self, code):
        self.code, self.signals = code, []

    def poll(self):
        return self.code

    def reason(self):
        return None

    def signal(self, number):
        self.signals.append(number)
        self.code = -number if self.code is ENDLESS else self.code


class FakeSlot:
    """Runs nothing: the n-th start of a job ends with the n-th of its `endings`.

    An ending is an exit code, ENDLESS, DONE, or the first line of an error.
    """

    def __init__(self, name, endings, started):
        self.name, self.endings, self.started = name, endings, started

    def start(self, file, number, log):
        job = read_jobs(file)[number]
        code = ending = self.endings[job.label].pop(0)
        if ending == DONE:
            written = replace(written_records.record(), folder=job.folder)
            (job.path / RESULT).write_text(json.dumps(written.to_json()))
            code = 0
        elif isinstance(ending, str):
            (job.path / ERROR).write_text(f"{ending}\n\nTraceback ...")
            code = 1
        process = FakeProcess(code)
        self.started.append((job.label, process))
        return process


class RecordingDisplay(SweepDisplay):
    """Keeps the lines instead of printing them."""

    def __init__(self, total):
        super().__init__(total)
        self.lines = []

    def message(self, text):
        self.lines.append(text)

    def done(self, job, record, seconds):
        self.message(f"{job.label}: done")


def run_sweep(tmp_path, policy, slots=1, **endings):
    """Run a sweep of jobs with these endings; return it, its lines and the started processes."""
    any_job = job(tmp_path, "method=baseline")
    jobs = [replace(any_job, folder=f"a/b/c/{name}/seed0", label=name) for name in endings]
    started = []
    fakes = [FakeSlot(str(number), endings, started) for number in range(slots)]
    display = RecordingDisplay(len(jobs))
    sweep = Sweep(jobs, write_jobs(jobs, "mine"), fakes, display, policy)
    sweep.run()
    return sweep, display.lines, started


def test_other_jobs_still_run_after_a_failure(tmp_path):
    sweep, lines, _ = run_sweep(
        tmp_path, RetryPolicy(), one=["ValueError: x"], two=[DONE], three=[DONE]
    )
    assert list(sweep.failed.values()) == ["ValueError: x"]
    assert lines[1:] == ["two: done", "three: done"]


def test_with_stop_a_failure_ends_running_jobs_and_no_more_are_started(tmp_path):
    sweep, lines, started = run_sweep(
        tmp_path,
        RetryPolicy(OnError.stop),
        slots=2,
        one=["ValueError: x"],
        two=[ENDLESS],
        three=[DONE],
    )
    assert list(sweep.failed) == ["a/b/c/one/seed0"]
    assert sweep.stopped
    assert [label for label, _ in started] == ["one", "two"]
    assert started[1][1].signals[0] == signal.SIGINT  # so that it can write a checkpoint
    assert len(lines) == 1
    assert lines[0].startswith("one: FAILED: ValueError: x; ")


def test_killed_job_is_retried_and_each_retry_is_reported(tmp_path):
    sweep, lines, _ = run_sweep(tmp_path, RetryPolicy(retries=2), one=[KILLED, KILLED, DONE])
    assert sweep.failed == {}
    assert len(lines) == 3
    for number, line in enumerate(lines[:2], start=1):
        assert line.startswith("one: killed by SIGKILL; ")
        assert line.endswith(f" {number} of 2")
    assert lines[2] == "one: done"


@pytest.mark.parametrize(
    "reason",
    [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
        "MemoryError: Unable to allocate 7.28 TiB",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't",
    ],
)
def test_job_that_ran_out_of_memory_is_retried(tmp_path, reason):
    sweep, lines, _ = run_sweep(tmp_path, RetryPolicy(retries=1), one=[reason, DONE])
    assert sweep.failed == {}
    assert lines[0].startswith(f"one: {reason}; ")
    assert lines[0].endswith(" 1 of 1")
    assert lines[1:] == ["one: done"]


def test_retry_comes_after_pending_jobs(tmp_path):
    _, _, started = run_sweep(tmp_path, RetryPolicy(retries=1), one=[KILLED, DONE], two=[DONE])
    assert [label for label, _ in started] == ["one", "two", "one"]


def test_job_fails_when_no_retry_is_left(tmp_path):
    sweep, lines, _ = run_sweep(tmp_path, RetryPolicy(retries=1), one=[KILLED, KILLED])
    assert list(sweep.failed.values()) == ["killed by SIGKILL"]
    assert lines[1].startswith("one: FAILED: killed by SIGKILL")


@pytest.mark.parametrize("ending", ["ValueError: x", "FloatingPointError: not finite", 3], ids=str)
def test_failure_that_would_repeat_is_not_retried(tmp_path, ending):
    sweep, _, started = run_sweep(tmp_path, RetryPolicy(retries=5), one=[ending])
    assert len(started) == len(sweep.failed) == 1


def test_job_that_the_sweep_stopped_is_not_retried(tmp_path):
    _, _, started = run_sweep(
        tmp_path,
        RetryPolicy(OnError.stop, retries=5),
        slots=2,
        one=["ValueError: x"],
        two=[ENDLESS],
    )
    assert [label for label, _ in started] == ["one", "two"]


def test_torchs_out_of_memory_error_is_recognized():
    with pytest.raises(RuntimeError) as failure:
        torch.ones(10**15)
    assert f"RuntimeError: {failure.value}".startswith(OUT_OF_MEMORY)


def test_a_job_that_lost_a_process_is_retried_like_one_that_was_killed():
    policy, reason = RetryPolicy(retries=1), failure_reason(ProcessLost("process 2 was lost"))
    assert policy.should_retry(reason, lost=False, tried=0)
    assert not policy.should_retry(reason, lost=False, tried=1)
    assert not policy.should_retry("UserError: no", lost=False, tried=0)


def test_a_killed_worker_is_retried_and_reported_in_one_line_wherever_torch_raises_it():
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    reason = failure_reason(error)
    assert RetryPolicy(retries=1).should_retry(reason, lost=False, tried=0)
    assert error_text(error).startswith("kd-bench: a process that decodes images was killed")
    assert "\n" not in error_text(error)


KILLED_ONCE = """
import os, signal
from pathlib import Path
from kd_bench.interfaces import Loss

class KilledOnce(Loss):
    needs_teacher = False

    def forward(self, student, teacher, batch):
        if not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return student.logits.sum() * 0
"""


@pytest.mark.slow
def test_real_job_that_was_killed_is_retried(tmp_path):
    (tmp_path / "killed_once.py").write_text(KILLED_ONCE)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "unlucky.yaml").write_text(
        "name: unlucky\nweights: {ce: 1.0, x: 1.0}\n"
        "losses: {x: {_target_: killed_once.KilledOnce}}\n"
    )
    command = ("--config-dir", "conf", "-m", *TINY, "method=unlucky", "hydra.launcher.retries=1")
    code, output = run(tmp_path, *command)
    assert code == 0, output
    line = next(line for line in output.splitlines() if "killed by SIGKILL" in line)
    assert line.endswith(" 1 of 1")
    assert len(results(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "facts"),
    [
        ("hydra.launcher.on_error=never", ["continue, stop"]),
        ("hydra.launcher.jobs_at_once=0", ["hydra.launcher.jobs_at_once", "1 or more", "0"]),
        ("hydra.launcher.jobs_per_gpu=0", ["hydra.launcher.jobs_per_gpu", "1 or more", "0"]),
        ("hydra.launcher.retries=-1", ["hydra.launcher.retries", "0 or more", "-1"]),
        ("hydra.launcher.retries=often", ["hydra.launcher.retries", "'often'"]),
        (
            "hydra.launcher.retrys=1",
            ["'retrys'", "hydra.launcher", "jobs_at_once", "jobs_per_gpu", "on_error", "retries"],
        ),
    ],
)
def test_wrong_launcher_value_is_reported_in_one_line(kd_bench, typed, facts):
    code, output = kd_bench("-m", *TINY, "seed=0,1", typed)
    assert (code, output.count("\n")) == (2, 1), output
    for fact in facts:
        assert fact in output
