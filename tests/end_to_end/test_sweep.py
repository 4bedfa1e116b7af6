"""Sweeps for real: processes, slots, failures, Ctrl-C, two at once."""

import json
import os
import re
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.jobs import TINY, job
from helpers.shell import results, run, start

from kd_bench.jobs import resolve
from kd_bench.jobs.job import write_jobs
from kd_bench.sweep import prepare
from kd_bench.sweep.executors import local
from kd_bench.utils.errors import UserError

FAST = (*TINY, "recipe.epochs=1")


# Freezing


def composed(tmp_path, *sets):
    return [(job(tmp_path, *overrides), {}) for overrides in sets]


def test_twins_run_once_and_teachers_go_first(tmp_path):
    jobs = prepare.prepare_jobs(
        composed(tmp_path, ["method=baseline"], ["method=st"], ["method=st"], ["method=at"])
    )
    assert [j.config["method"]["name"] for j in jobs] == ["baseline", "baseline", "st", "at"]
    teacher, *others = jobs
    assert not teacher.asked and all(j.asked for j in others)
    assert [j.after for j in jobs] == [None, None, teacher.folder, teacher.folder]


def test_all_jobs_are_checked_before_the_first_starts(tmp_path):
    bad = composed(tmp_path, ["method=st"], ["method=at", "method.losses.at.stages=[stage9]"])
    with pytest.raises(UserError, match="unknown stage 'stage9'"):
        prepare.prepare_jobs(bad)


def test_jobs_of_one_name_say_where_they_differ(tmp_path):
    epochs = [[f"recipe.epochs={number}", "method=st"] for number in (3, 5)]
    jobs = prepare.prepare_jobs(composed(tmp_path, *epochs, ["method=at"]))
    labels = [j.label.removeprefix("synthetic ") for j in jobs if j.asked]
    pair = "resnet20-resnet8_half"
    told = [f"{pair} st seed 0 (recipe.epochs={number})" for number in (3, 5)]
    assert labels == [*told, f"{pair} at seed 0"]


def test_jobs_of_other_recipes_say_which(tmp_path):
    sets = [[f"recipe={name}", "method=baseline"] for name in ("quickstart", "predecessor200")]
    jobs = prepare.prepare_jobs(composed(tmp_path, *sets))
    assert [j.label.partition(" (")[2] for j in jobs] == [
        "recipe=quickstart)",
        "recipe=predecessor200)",
    ]


# Slots


def test_gpus_that_are_visible_are_slots_each_as_often_as_asked(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    places = local.local_slots("auto", 1, jobs_per_gpu=2, jobs_at_once=None)
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in places] == ["4", "6", "4", "6"]
    assert len(set(places)) == 4


def test_without_a_gpu_the_cores_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 7})
    places = local.local_slots("auto", 2, 1, None)
    assert [s.environment["KD_BENCH_CORES"] for s in places] == ["0,1", "2,5"]
    assert all(s.environment["OMP_NUM_THREADS"] == "2" for s in places)
    assert len(local.local_slots("cpu", 1, 1, jobs_at_once=3)) == 3
    assert len(local.local_slots("cpu", 64, 1, None)) == 1


# Running


@pytest.mark.slow
def test_a_sweep_trains_all_prints_a_table_and_has_nothing_to_do_the_second_time(tmp_path):
    command = ("-m", *FAST, "method=baseline,st", "seed=0,1")
    code, printed = run(tmp_path, *command)
    assert code == 0, printed
    assert len(re.findall(r": done: ", printed)) == 5  # four jobs and the teacher
    assert re.search(r"^ *baseline +\d", printed, re.MULTILINE)
    before = results(tmp_path)
    assert len(before) == 5
    code, printed = run(tmp_path, *command)
    assert code == 0
    assert printed.count("done already, nothing to train") == 5
    assert results(tmp_path) == before


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_work_and_run_each_job_once(tmp_path):
    command = ("-m", *FAST, "method=baseline,st", "seed=0,1")
    both = [start(tmp_path, *command) for _ in range(2)]
    printed = [process.communicate(timeout=180)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert len(results(tmp_path)) == 5
    # One that comes second finds the result there, or waits for it; its line says so.
    assert sum(text.count(": done: ") for text in printed) >= 5
    for path in results(tmp_path):
        assert len(list(path.parent.glob("console.log"))) == 1
    timings = tmp_path.glob("runs/*/*/*/*/*/timing.csv")
    assert all(len(path.read_text().splitlines()) == 2 for path in timings)


# Each step of a job that is told to do X adds a line to the file seen/X: its GPU, and when.
FAILING = """
import os, resource, signal, sys, time, torch
from kd_bench.interfaces import Loss

class Fails(Loss):
    needs_teacher = False

    def __init__(self, spec, how, seconds):
        super().__init__(spec)
        self.how, self.seconds = how, seconds

    def forward(self, student, teacher, batch):
        with open(f"seen/{self.how}", "a") as file:
            print(os.environ.get("CUDA_VISIBLE_DEVICES"), time.time_ns(), file=file)
        time.sleep(self.seconds)
        if self.how == "raise":
            raise RuntimeError("as it was told to")
        if self.how == "leave":
            sys.exit(-1)
        if self.how == "exit":
            sys.exit(3)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "memory":
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
            torch.ones(2**30)
        return student.logits.sum() * 0
"""
FAILS = """
name: fails
weights: {ce: 1.0, f: 1.0}
losses: {f: {_target_: failing.Fails, how: no, seconds: 0.0}}
"""


def prepare_failing(folder: Path) -> None:
    (folder / "seen").mkdir()
    (folder / "failing.py").write_text(FAILING)
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "method" / "fails.yaml").write_text(FAILS)


def steps(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """What each job wrote at its steps: the GPU that it saw, and when."""
    found = {}
    for path in (folder / "seen").iterdir():
        rows = (line.split() for line in path.read_text().splitlines())
        found[path.name] = [(gpu, int(time)) for gpu, time in rows]
    return found


@pytest.mark.slow
def test_twelve_jobs_on_two_gpus_of_which_five_fail(tmp_path, monkeypatch):
    prepare_failing(tmp_path)
    monkeypatch.setenv(
        "CUDA_VISIBLE_DEVICES", "4,6"
    )  # stand-ins: PyTorch finds none and uses cores
    command = (
        "--config-dir",
        "conf",
        "-m",
        *FAST,
        "device=auto",
        "method=fails",
        "method.losses.f.seconds=0.1",
    )
    names = "raise,a,b,exit,c,d,kill,e,f,memory,g,leave"
    code, printed = run(tmp_path, *command, f"method.losses.f.how={names}")
    assert code == 1
    assert "RuntimeError: as it was told to; see " in printed
    assert "killed by SIGKILL" in printed
    assert "exit code 3" in printed
    assert "exit code 1 and no result" in printed
    assert "FAILED: RuntimeError: [enforce fail at alloc_cpu" in printed
    assert "can't allocate memory: you tried to allocate 4294967296 bytes" in printed  # 2^30 floats
    assert "5 of 12 jobs failed:" in printed
    assert len(results(tmp_path)) == 7
    for how in ("raise", "exit", "kill", "memory", "leave"):
        lines = map(str.strip, printed.splitlines())
        row = next(line for line in lines if line.startswith(f"fails (how={how}"))
        assert row.endswith("failed")
    (path,) = (p for p in tmp_path.glob("runs/*/*/*/*/*/error.txt") if "told" in p.read_text())
    assert "Traceback" in path.read_text()

    # Each saw one GPU, and no GPU saw two at a time.
    assert {gpu for rows in steps(tmp_path).values() for gpu, _ in rows} == {"4", "6"}
    for gpu in ("4", "6"):
        rows = [rows for rows in steps(tmp_path).values() if rows[0][0] == gpu]
        spans = sorted((times[0][1], times[-1][1]) for times in rows)
        assert all(one[1] < other[0] for one, other in pairwise(spans))


@pytest.mark.slow
def test_a_launcher_that_was_killed_and_the_same_command_twice_at_the_same_moment(tmp_path):
    prepare_failing(tmp_path)
    command = ("--config-dir", "conf", "-m", *FAST, "method=fails", "method.losses.f.seconds=0.3")
    command = (*command, "method.losses.f.how=a,b,c,d,e,f")
    killed = start(tmp_path, *command)
    end = time.monotonic() + 60
    while not (results(tmp_path) and len(steps(tmp_path)) >= 3):  # one is done, others are at work
        assert time.monotonic() < end and killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    before = results(tmp_path)
    both = [start(tmp_path, *command) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    killed.communicate()

    after = results(tmp_path)
    assert len(after) == 6
    assert before.items() <= after.items()
    appeared = {how_of(path): time for path, time in after.items()}
    for how, rows in steps(tmp_path).items():
        assert len(rows) == 3  # 40 images in batches of 16, once: nothing was trained twice
        assert all(time < appeared[how] for _, time in rows)


def how_of(result: Path) -> str:
    return json.loads(result.read_text())["config"]["method"]["losses"]["f"]["how"]


@pytest.mark.slow
def test_a_failed_teacher_is_one_failure_that_names_who_waited(tmp_path):
    command = ("-m", *FAST, "method=st,at", "teacher.recipe.lr=1e30")
    code, printed = run(tmp_path, *command, "teacher.recipe.schedule=constant")
    assert code == 1
    line = next(line for line in printed.splitlines() if "FAILED" in line)
    assert "the loss is not finite in epoch 1" in line
    assert "waiting for it: " in line and " st seed 0, " in line and " at seed 0" in line
    assert "its teacher failed" in printed


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(str(folder) in word or "kd_bench" in word for word in words):
            found += [" ".join(words)] if _cwd(path) == folder else []
    return found


def _cwd(path: Path) -> Path | None:
    try:
        return (path.parent / "cwd").resolve()
    except OSError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_sweep_and_leaves_no_process_behind(tmp_path, number):
    long = ("recipe.epochs=100000", "method=baseline", "seed=0,1")
    # As nohup and a shell's background leave them.
    process = start(tmp_path, "-m", *TINY, *long, ignored=(signal.SIGHUP, signal.SIGINT))
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("runs/*/*/*/*/*/history.csv"))) < 1:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    assert processes_in(tmp_path)
    os.killpg(process.pid, signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, number)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130, printed
    assert "the same command again goes on from here" in printed
    assert processes_in(tmp_path) == []
    assert not list(tmp_path.glob("runs/*/*/*/*/*/lock/*"))
    assert results(tmp_path) == {}


def test_the_whole_command_line_of_a_frozen_job_is_in_its_file(tmp_path):
    path = write_jobs(prepare.prepare_jobs(composed(tmp_path, ["method=st"])), "mine")
    assert path == tmp_path / ".sweeps" / "mine.jsonl"
    assert len(path.read_text().splitlines()) == 2
    assert resolve.folder_name(job(tmp_path, "method=st")) in path.read_text()
