"""What a sweep does about jobs that fail: on_error and retries."""

import signal

import pytest
import torch
from helpers.jobs import TINY
from helpers.shell import results, run

from kd_bench.jobs.job import Job, read_jobs, write_jobs
from kd_bench.sweep.display import SweepDisplay
from kd_bench.sweep.retry import OUT_OF_MEMORY, OnError, RetryPolicy
from kd_bench.sweep.scheduler import Sweep

FOREVER = None


class Process:
    """Ends with a code when it is looked at, or with the signal that it is sent."""

    def __init__(self, code):
        self.code, self.signals = code, []

    def poll(self):
        return self.code

    def reason(self):
        return None

    def signal(self, number):
        self.signals.append(number)
        self.code = -number if self.code is FOREVER else self.code


class Place:
    """Runs nothing: a job ends as `endings` says, one ending for each time it is started."""

    def __init__(self, name, endings, started):
        self.name, self.endings, self.started = name, endings, started

    def start(self, path, number, log):
        job = read_jobs(path)[number]
        ending = self.endings[job.label].pop(0)
        self.started.append((job.label, Process(0 if ending == "done" else ending)))
        if ending == "done":
            (job.path / "result.json").write_text("{}")
        if isinstance(ending, str) and ending != "done":
            (job.path / "error.txt").write_text(f"{ending}\n\nTraceback ...")
            self.started[-1][1].code = 1
        return self.started[-1][1]


class Told(SweepDisplay):
    """Remembers what is said."""

    def __init__(self, total):
        super().__init__(total)
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def done(self, job, seconds):
        self.say(f"{job.label}: done")


def swept(tmp_path, policy, places=1, **endings):
    """Run a sweep of jobs that end as told: the sweep, what it said, and each job's processes."""
    config = {"runs_dir": str(tmp_path)}
    jobs = [Job(config, {}, {}, f"a/b/c/{name}/seed0", name, None, True) for name in endings]
    started = []
    slots = [Place(str(number), endings, started) for number in range(places)]
    sweep = Sweep(jobs, write_jobs(jobs, "mine"), slots, Told(len(jobs)), policy)
    sweep.run()
    return sweep, sweep.show.lines, started


def test_past_a_failure_the_others_go_on(tmp_path):
    sweep, lines, _ = swept(
        tmp_path, RetryPolicy(), one=["ValueError: x"], two=["done"], three=["done"]
    )
    assert list(sweep.failed.values()) == ["ValueError: x"]
    assert lines[1:] == ["two: done", "three: done"]


def test_with_stop_a_failure_ends_the_running_jobs_and_starts_no_more(tmp_path):
    sweep, lines, started = swept(
        tmp_path,
        RetryPolicy(OnError.stop),
        places=2,
        one=["ValueError: x"],
        two=[FOREVER],
        three=["done"],
    )
    assert list(sweep.failed) == ["a/b/c/one/seed0"]
    assert sweep.stopped
    assert [label for label, _ in started] == ["one", "two"]
    assert started[1][1].signals[0] == signal.SIGINT  # it may write a checkpoint
    assert len(lines) == 1 and lines[0].startswith("one: FAILED: ValueError: x; see ")


def test_a_lost_process_is_tried_again_and_it_is_said(tmp_path):
    kill = -signal.SIGKILL
    sweep, lines, _ = swept(tmp_path, RetryPolicy(retries=2), one=[kill, kill, "done"])
    assert sweep.failed == {}
    assert lines == [
        "one: killed by SIGKILL; trying again, 1 of 2",
        "one: killed by SIGKILL; trying again, 2 of 2",
        "one: done",
    ]


@pytest.mark.parametrize(
    "reason",
    [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
        "MemoryError: Unable to allocate 7.28 TiB",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't",
    ],
)
def test_a_job_that_ran_out_of_memory_is_tried_again(tmp_path, reason):
    sweep, lines, _ = swept(tmp_path, RetryPolicy(retries=1), one=[reason, "done"])
    assert sweep.failed == {}
    assert lines == [f"one: {reason}; trying again, 1 of 1", "one: done"]


def test_others_come_first_before_a_job_is_tried_again(tmp_path):
    kill = -signal.SIGKILL
    _, _, started = swept(tmp_path, RetryPolicy(retries=1), one=[kill, "done"], two=["done"])
    assert [label for label, _ in started] == ["one", "two", "one"]


def test_when_no_retry_is_left_the_job_has_failed(tmp_path):
    kill = -signal.SIGKILL
    sweep, lines, _ = swept(tmp_path, RetryPolicy(retries=1), one=[kill, kill])
    assert list(sweep.failed.values()) == ["killed by SIGKILL"]
    assert lines[1].startswith("one: FAILED: killed by SIGKILL")


@pytest.mark.parametrize("ending", ["ValueError: x", "FloatingPointError: not finite", 3], ids=str)
def test_a_failure_of_the_jobs_own_making_is_not_tried_again(tmp_path, ending):
    sweep, _, started = swept(tmp_path, RetryPolicy(retries=5), one=[ending])
    assert len(started) == len(sweep.failed) == 1


def test_a_job_that_the_sweep_itself_ended_is_not_tried_again(tmp_path):
    _, _, started = swept(
        tmp_path,
        RetryPolicy(OnError.stop, retries=5),
        places=2,
        one=["ValueError: x"],
        two=[FOREVER],
    )
    assert [label for label, _ in started] == ["one", "two"]


def test_memory_that_torch_does_not_get_is_known_by_its_words():
    with pytest.raises(RuntimeError) as failure:
        torch.ones(10**15)
    assert f"RuntimeError: {failure.value}".startswith(OUT_OF_MEMORY)


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
def test_a_real_job_that_was_killed_is_tried_again(tmp_path):
    (tmp_path / "killed_once.py").write_text(KILLED_ONCE)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "unlucky.yaml").write_text(
        "name: unlucky\nweights: {ce: 1.0, x: 1.0}\n"
        "losses: {x: {_target_: killed_once.KilledOnce}}\n"
    )
    command = ("--config-dir", "conf", "-m", *TINY, "method=unlucky", "hydra.launcher.retries=1")
    code, printed = run(tmp_path, *command)
    assert code == 0, printed
    assert "killed by SIGKILL; trying again, 1 of 1" in printed
    assert len(results(tmp_path)) == 1


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("hydra.launcher.on_error=never", "expected one of [continue, stop]"),
        ("hydra.launcher.jobs_at_once=0", "hydra.launcher.jobs_at_once must be 1 or more, got 0"),
        ("hydra.launcher.jobs_per_gpu=0", "hydra.launcher.jobs_per_gpu must be 1 or more, got 0"),
        ("hydra.launcher.retries=-1", "hydra.launcher.retries must be 0 or more, got -1"),
        ("hydra.launcher.retries=often", "hydra.launcher.retries: Value 'often' of type 'str'"),
        ("hydra.launcher.retrys=1", "no key 'retrys' in hydra.launcher; there are "),
    ],
)
def test_a_mistake_is_answered_in_one_line(kd_bench, typed, answer):
    code, printed = kd_bench("-m", *TINY, "seed=0,1", typed)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
