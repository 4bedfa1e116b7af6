"""Sweeps in real processes: slots, failures, Ctrl-C, two sweeps of the same jobs."""

import json
import os
import re
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.jobs import TINY, composed
from helpers.shell import is_alive, results, run, start, wait_until

from kd_bench.config.schema import Device
from kd_bench.jobs.job import read_jobs, write_jobs
from kd_bench.jobs.protocol import CORES, INTERRUPTED
from kd_bench.results.run_folder import CONSOLE, ERROR, HISTORY, RESULT, TIMING
from kd_bench.sweep.executors.local import local_slots
from kd_bench.sweep.prepare import prepare_jobs
from kd_bench.utils.errors import UserError

FAST = (*TINY, "recipe.epochs=1")


# Preparing


def prepared(tmp_path, *sets):
    """The jobs of a sweep with one job per set of overrides."""
    return prepare_jobs([composed(*TINY, *each, f"runs_dir={tmp_path}") for each in sets])


@pytest.mark.slow
def test_duplicates_are_removed_and_teachers_come_first(tmp_path):
    jobs = prepared(tmp_path, ["method=baseline"], ["method=st"], ["method=st"], ["method=at"])
    assert [job.config.method.name for job in jobs] == ["baseline", "baseline", "st", "at"]
    teacher, *others = jobs
    assert not teacher.is_requested
    assert all(job.is_requested for job in others)
    assert [job.teacher for job in jobs] == [None, None, teacher, teacher]


@pytest.mark.slow
def test_a_teacher_that_is_also_requested_is_one_job(tmp_path):
    same = ["method=baseline", "model=resnet20", "model.net.widths=[16,16,32,64]"]
    same += ["model.net.depth=8", "recipe.epochs=1", "recipe.batch_size=32"]
    teacher, student = prepared(tmp_path, ["method=st"], same)
    assert teacher.is_requested
    assert student.teacher == teacher


@pytest.mark.slow
def test_a_missing_teacher_of_students_that_are_all_done_is_not_trained(tmp_path, finished):
    student, teacher = finished
    runs = tmp_path / "runs"
    assert [job.path for job in prepared(runs, ["method=st"])] == [teacher, student]
    shutil.rmtree(teacher)
    (job,) = prepared(runs, ["method=st"])
    assert job.path == student
    jobs = prepared(runs, ["method=st"], ["method=st", "seed=1"])
    assert [job.path for job in jobs] == [teacher, student, student.with_name("seed1")]


def test_all_jobs_are_checked_before_the_first_starts(tmp_path):
    with pytest.raises(UserError, match="'stage9'") as refused:
        prepared(tmp_path, ["method=st"], ["method=at", "method.losses.at.stages=[stage9]"])
    assert "stage3" in str(refused.value)  # one of the stages to choose from


@pytest.mark.slow
def test_jobs_with_equal_labels_are_labelled_with_the_values_that_differ(tmp_path):
    sets = [[f"recipe.epochs={number}", "method=st"] for number in (3, 5)]
    jobs = prepared(tmp_path, *sets, ["method=at"])
    labels = [job.label for job in jobs if job.is_requested]
    assert len(set(labels)) == 3
    for label, epochs in zip(labels, ("recipe.epochs=3", "recipe.epochs=5"), strict=False):
        assert " st " in label
        assert epochs in label
    assert " at " in labels[2]
    assert "recipe.epochs" not in labels[2].partition(" seed 0")[2]


@pytest.mark.slow
def test_jobs_with_equal_labels_are_labelled_with_their_recipes(tmp_path):
    sets = [[f"recipe={name}", "method=baseline"] for name in ("quickstart", "predecessor200")]
    labels = [job.label.partition(" (")[2] for job in prepared(tmp_path, *sets)]
    assert labels == ["recipe=quickstart)", "recipe=predecessor200)"]


@pytest.mark.slow
@pytest.mark.parametrize("others", [[], ["method=baseline", "model=resnet20"]], ids=str)
def test_a_teachers_label_has_its_recipe_with_and_without_other_jobs(tmp_path, others):
    teachers = [
        prepared(tmp_path, ["method=st", f"recipe@teacher.recipe={name}"], *[others] * bool(others))
        for name in ("quickstart", "short")
    ]
    labels = [job.label for jobs in teachers for job in jobs if not job.is_requested]
    assert labels == [
        f"synthetic resnet20 baseline seed 0 (teacher, recipe={name})"
        for name in ("quickstart", "short")
    ]


def test_teachers_of_one_recipe_are_labelled_with_the_values_that_differ(tmp_path):
    sets = [["method=st", f"teacher.recipe.epochs={number}"] for number in (1, 3)]
    labels = [job.label for job in prepared(tmp_path, *sets) if not job.is_requested]
    named = "synthetic resnet20 baseline seed 0 (teacher, recipe=quickstart)"
    assert labels == [f"{named} (epochs=1)", f"{named} (epochs=3)"]


def test_the_file_of_a_sweep_has_every_job_with_its_teacher(tmp_path):
    jobs = prepared(tmp_path, ["method=st"])
    file = write_jobs(jobs, "mine")
    assert file == tmp_path / ".sweeps" / "mine.jsonl"
    assert len(file.read_text().splitlines()) == 3  # the last line is the file's hash
    assert read_jobs(file) == jobs


# Slots


def test_each_visible_gpu_has_a_slot_per_job_that_may_share_it(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    slots = local_slots(Device.auto, 1, jobs_per_gpu=2, jobs_at_once=None)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["4", "6", "4", "6"]
    assert len(set(slots)) == 4


def test_without_a_gpu_each_group_of_cores_is_a_slot(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 7})
    slots = local_slots(Device.auto, 2, 1, None)
    assert [slot.environment[CORES] for slot in slots] == ["0,1", "2,5"]
    assert all(slot.environment["OMP_NUM_THREADS"] == "2" for slot in slots)
    assert len(local_slots(Device.cpu, 1, 1, jobs_at_once=3)) == 3
    assert len(local_slots(Device.cpu, 64, 1, None)) == 1


def test_a_job_of_several_processes_gets_that_many_gpus_or_groups_of_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    (slot,) = local_slots(Device.auto, 1, 1, None, gpus_per_job=2)
    assert slot.environment["CUDA_VISIBLE_DEVICES"] == "4,6"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 7})
    (slot,) = local_slots(Device.cpu, 2, 1, None, gpus_per_job=2)
    assert slot.environment[CORES] == "0,1,2,5"


# Running


@pytest.mark.slow
def test_two_sweeps_of_the_same_jobs_train_each_job_once_and_a_third_one_trains_nothing(tmp_path):
    command = ("-m", *FAST, "method=baseline,st", "seed=0,1")
    sweeps = [start(tmp_path, *command) for _ in range(2)]
    outputs = [sweep.communicate(timeout=180)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], outputs
    before = results(tmp_path)
    assert len(before) == 5  # four jobs and the teacher
    # A sweep also reports a job as done that the other one trained while it waited.
    assert sum(output.count(": done: ") for output in outputs) >= 5
    for output in outputs:
        assert re.search(r"^ *baseline +\d", output, re.MULTILINE)  # the table
    for path in before:
        assert (path.parent / CONSOLE).exists()
        assert len((path.parent / TIMING).read_text().splitlines()) == 2  # one epoch, once

    code, output = run(tmp_path, *command)
    assert code == 0
    assert output.count("already done, nothing to train") == 5
    assert results(tmp_path) == before


# Each step of a job appends its GPU and the time to the file seen/<mode>. Then the job fails
# according to its mode; other modes do not fail.
FAILING = """
import os, resource, signal, subprocess, sys, time, torch
from kd_bench.interfaces import Loss

class Fails(Loss):
    needs_teacher = False

    def __init__(self, context, mode, seconds):
        super().__init__(context)
        self.mode, self.seconds = mode, seconds

    def forward(self, student, teacher, batch):
        with open(f"seen/{self.mode}", "a") as file:
            print(os.environ.get("CUDA_VISIBLE_DEVICES"), time.time_ns(), file=file)
        time.sleep(self.seconds)
        if self.mode == "raise":
            raise RuntimeError("on purpose")
        if self.mode == "exit_75":
            sys.exit(75)
        if self.mode in ("_exit_75", "_exit_255"):
            os._exit(int(self.mode[6:]))
        if self.mode == "orphan":
            sleeping = subprocess.Popen(["sleep", "300"], start_new_session=True)
            open("seen/orphan.pid", "w").write(str(sleeping.pid))
        if self.mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mode == "memory":
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
            torch.ones(2**30)
        return student.logits.sum() * 0
"""
FAILS = """
name: fails
weights: {ce: 1.0, f: 1.0}
losses: {f: {_target_: failing.Fails, mode: none, seconds: 0.0}}
"""


def write_method(folder: Path, name: str, yaml: str, module: str, code: str) -> None:
    """Write a user's own method and the module of its loss."""
    (folder / "seen").mkdir()
    (folder / f"{module}.py").write_text(code)
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "method" / f"{name}.yaml").write_text(yaml)


def steps(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """The steps of each mode's job: the visible GPU, and the time."""
    found = {}
    for path in (folder / "seen").iterdir():
        rows = (line.split() for line in path.read_text().splitlines())
        found[path.name] = [(gpu, int(time)) for gpu, time in rows]
    return found


@pytest.mark.slow
def test_six_of_twelve_jobs_on_two_gpus_fail_each_with_its_reason(tmp_path, monkeypatch):
    write_method(tmp_path, "fails", FAILS, "failing", FAILING)
    # PyTorch does not find these GPUs and runs on the CPU.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    failing = {
        "raise": "RuntimeError: on purpose; ",
        "exit_75": "SystemExit: its code called sys.exit(75)",
        "_exit_75": "its process ended with exit code 75 and no result",
        "_exit_255": "its process ended with exit code 255 and no result",
        "kill": "killed by SIGKILL",
        "memory": "RuntimeError: [enforce fail at alloc_cpu",
    }
    modes = "raise,a,b,exit_75,orphan,d,kill,e,_exit_255,memory,g,_exit_75"
    values = (f"method.losses.f.mode={modes}", "method.losses.f.seconds=0.1", "device=auto")
    code, output = run(tmp_path, "--config-dir", "conf", "-m", *FAST, "method=fails", *values)
    assert code == 1
    lines = [line.strip() for line in output.splitlines()]
    for mode, reason in failing.items():
        own = [line for line in lines if re.search(rf"\bmode={mode}\b", line)]
        failure = next(line for line in own if "FAILED: " in line)
        assert reason in failure.partition("FAILED: ")[2]
        row = next(line for line in own if line.startswith("fails ("))
        assert row.endswith("failed")
    assert "tried to allocate 4294967296 bytes" in output  # 2^30 floats
    assert "6 of 12 jobs failed:" in output
    assert len(results(tmp_path)) == 6
    orphan = tmp_path / "seen" / "orphan.pid"
    assert not is_alive(int(orphan.read_text()))
    orphan.unlink()
    errors = [path.read_text() for path in tmp_path.glob(f"runs/*/*/*/*/*/{ERROR}")]
    (error,) = (text for text in errors if "on purpose" in text)
    assert "Traceback" in error

    # Each job saw one GPU, and each GPU had one job at a time.
    assert {gpu for rows in steps(tmp_path).values() for gpu, _ in rows} == {"4", "6"}
    for gpu in ("4", "6"):
        jobs = [rows for rows in steps(tmp_path).values() if rows[0][0] == gpu]
        spans = sorted((rows[0][1], rows[-1][1]) for rows in jobs)
        assert all(one[1] < other[0] for one, other in pairwise(spans))


@pytest.mark.slow
def test_two_sweeps_finish_the_jobs_of_a_killed_one_and_train_nothing_twice(tmp_path):
    write_method(tmp_path, "fails", FAILS, "failing", FAILING)
    values = ("method.losses.f.mode=a,b,c,d,e,f", "method.losses.f.seconds=0.3")
    command = ("--config-dir", "conf", "-m", *FAST, "method=fails", *values)
    killed = start(tmp_path, *command)
    # One job is done, others are running.
    wait_until(lambda: results(tmp_path) and len(steps(tmp_path)) >= 3, killed)
    killed.kill()
    before = results(tmp_path)
    sweeps = [start(tmp_path, *command) for _ in range(2)]
    outputs = [sweep.communicate(timeout=120)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], outputs
    killed.communicate()

    after = results(tmp_path)
    assert len(after) == 6
    assert before.items() <= after.items()
    finished = {mode_of(path): time for path, time in after.items()}
    for mode, rows in steps(tmp_path).items():
        assert len(rows) == 3  # 40 images in batches of 16, once
        assert all(time < finished[mode] for _, time in rows)


def mode_of(result: Path) -> str:
    return json.loads(result.read_text())["config"]["method"]["losses"]["f"]["mode"]


@pytest.mark.slow
def test_a_failed_teacher_is_one_failure_that_lists_its_students(tmp_path):
    command = ("-m", *FAST, "method=st,at", "teacher.recipe.lr=1e30")
    code, output = run(tmp_path, *command, "teacher.recipe.schedule=constant")
    assert code == 1
    (line,) = (line for line in output.splitlines() if "FAILED: " in line)
    assert "not finite" in line
    dependents = line.rpartition(": ")[2]
    assert " st seed 0, " in dependents
    assert " at seed 0" in dependents
    assert "its teacher failed" in output


# Editing files while a sweep runs

REVISED = """
import time
from pathlib import Path
from kd_bench.interfaces import Loss

class Revised(Loss):
    needs_teacher = False
    revision = 1

    def forward(self, student, teacher, batch):
        Path("seen/started").touch()
        while not Path("seen/edited").exists():
            time.sleep(0.02)
        return student.logits.sum() * 0
"""


@pytest.mark.slow
def test_a_job_whose_loss_is_revised_while_it_waits_fails_with_both_revisions(tmp_path):
    yaml = "name: revised\nweights: {ce: 1.0, x: 1.0}\nlosses: {x: {_target_: own.Revised}}\n"
    write_method(tmp_path, "revised", yaml, "own", REVISED)
    command = ("--config-dir", "conf", "-m", *FAST, "method=revised", "seed=0,1")
    command = (*command, "hydra.launcher.jobs_at_once=1")
    sweep = start(tmp_path, *command)
    wait_until((tmp_path / "seen" / "started").exists, sweep)
    (tmp_path / "own.py").write_text(REVISED.replace("revision = 1", "revision = 2"))
    (tmp_path / "seen" / "edited").touch()
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 1, output
    assert "exit code 0" not in output
    assert "seed 0: done: " in output  # it had started with the first revision
    (line,) = (line for line in output.splitlines() if "FAILED: " in line)
    assert "seed 1" in line
    for fact in ("'x'", "revised", "revision 1", "now 2"):
        assert fact in line.partition("FAILED: ")[2]
    assert len(results(tmp_path)) == 1

    # The same command now has different jobs: both seeds with the second revision.
    code, output = run(tmp_path, *command)
    assert code == 0, output
    assert output.count(": done: ") == 2
    assert len(results(tmp_path)) == 3


# Signals


def processes_in(folder: Path) -> list[str]:
    """Command lines of kd-bench processes whose working directory is `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
            current = (path.parent / "cwd").resolve()
        except OSError:
            continue
        if current == folder and any(str(folder) in word or "kd_bench" in word for word in words):
            found.append(" ".join(words))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_sweep_and_all_its_processes(tmp_path, number):
    endless = ("recipe.epochs=100000", "method=baseline", "seed=0,1")
    # These signals are ignored, as with nohup or a shell's background job.
    sweep = start(tmp_path, "-m", *TINY, *endless, ignored=(signal.SIGHUP, signal.SIGINT))
    wait_until(lambda: list(tmp_path.glob(f"runs/*/*/*/*/*/{HISTORY}")), sweep)
    assert processes_in(tmp_path)
    os.killpg(sweep.pid, signal.SIGHUP)
    time.sleep(0.5)
    assert sweep.poll() is None
    os.killpg(sweep.pid, number)
    output, _ = sweep.communicate(timeout=30)
    assert sweep.returncode == INTERRUPTED, output
    assert "the same command resumes the sweep" in output
    assert processes_in(tmp_path) == []
    assert not list(tmp_path.glob("runs/*/*/*/*/*/lock/*"))
    assert not list(tmp_path.rglob(RESULT))
