"""Concurrent commands, locks that are taken over, and files or links instead of a lock."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from faults import oracle
from faults.harness import Case, Trial
from faults.hook import NOTHING, Fault
from faults.oracle import Found, Outcome
from faults.program import Words
from faults.states import STUDENT, Scenario, States
from kd_bench.utils import lock

READERS: tuple[Words, ...] = (("table",), ("table", "--format", "csv"), ("status",), ("clean",))
HALFWAY = 40  # the file operation at which the process that took over is stopped
PAUSE = 0.5  # seconds


def cases(states: States, rounds: int, every: int, seed: int) -> Iterator[Case]:
    """All cases of this file.

    Args:
        states: the scenarios.
        rounds: how many times two commands are started together.
        every: stop a process before every N-th file operation.
        seed: of the random delays between two commands.
    """
    draw = random.Random(seed)
    for i in range(rounds):
        delay = draw.uniform(0, 0.5)
        for name in ("job", "cached teacher", "images", "sweep"):
            what, start = f"{name}, {i}: {delay:.2f} s apart", partial(states.start, name)
            play = partial(two_at_once, states[name], delay)
            yield Case("two jobs or two sweeps at once", what, start, play, name == "sweep")
        start, play = partial(states.start, "sweep"), partial(_readers, states["sweep"])
        yield Case("readers during a sweep", f"round {i}", start, play, runs_sweep=True)
    for name in ("job", "cached teacher"):
        for operation in states[name].operations[::every]:
            for pause, when in ((0, "after"), (HALFWAY, "while")):
                fault = Fault("stop", operation.number)
                what = f"{name}, stopped at {operation.number}: {operation.text}; goes on {when}"
                start = partial(states.start, name)
                play = partial(_taken_over, states[name], fault, pause)
                yield Case("stopped, its lock taken over, goes on", what, start, play)
    for what, obstacle in OBSTACLES.items():
        start = partial(states.interrupted, "job")
        play = partial(_obstacle, states["job"], obstacle)
        yield Case("something else in the place of a lock", what, start, play)


def two_at_once(scenario: Scenario, delay: float, trial: Trial) -> Outcome:
    """Run the same command twice, the second one `delay` seconds after the first."""
    first = trial.start(scenario.words)
    time.sleep(delay)
    second = trial.start(scenario.words)
    trial.end(first)
    trial.end(second)
    outcome = trial.finish(scenario)
    trial.check_trained_once()
    return outcome


def _readers(scenario: Scenario, trial: Trial) -> Outcome:
    sweep = trial.start(scenario.words)
    while sweep.poll() is None:
        readers = [trial.start(words) for words in READERS]
        for ended in map(trial.end, readers):
            if ended.code != 0:  # nothing to read yet
                oracle.refusal(ended.output, None, trial.work)
    trial.end(sweep)
    for words in READERS:
        if trial.run(words).code != 0:
            raise Found(Outcome.UNCLEAR, f"{' '.join(words)} fails after the sweep")
    return trial.finish(scenario)


def _taken_over(scenario: Scenario, fault: Fault, pause: int, trial: Trial) -> Outcome:
    """Stop a process; one on another host takes its lock and ends or is stopped; resume both."""
    stopped = trial.start(scenario.words, fault)
    if stopped.wait_until_stopped():
        _silence(trial.work)
        other_fault = Fault("stop", pause) if pause else NOTHING
        other = trial.start(scenario.words, other_fault, patch=_on_another_host)
        is_paused = other.wait_until_stopped()
        stopped.signal(signal.SIGCONT)
        if is_paused:
            time.sleep(PAUSE)
        other.signal(signal.SIGCONT)
        trial.end(other)
    trial.end(stopped)
    return trial.finish(scenario)


def _silence(work: Path) -> None:
    """Make the last heartbeat of all locks an hour old."""
    an_hour_ago = time.time() - 3600
    for owner in work.glob("runs/**/lock/*"):
        os.utime(owner, (an_hour_ago, an_hour_ago))


def _on_another_host() -> None:
    """Make this process seem to run on another host, and shorten its wait for heartbeats."""
    vars(socket)["gethostname"] = lambda: "elsewhere"
    vars(lock)["HEARTBEAT_SECONDS"] = 0.02


def _obstacle(scenario: Scenario, obstacle: Callable[[Path], None], trial: Trial) -> Outcome:
    (student,) = trial.work.glob(STUDENT)
    path = student / "lock"
    shutil.rmtree(path)
    obstacle(path)
    return trial.finish(scenario, path)


def _folder_with(*names: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        for name in names:
            (path / name).touch()

    return make


OBSTACLES: dict[str, Callable[[Path], None]] = {
    "a file": Path.touch,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "an empty folder": _folder_with(),
    "a folder with .DS_Store": _folder_with(".DS_Store"),
    "a folder with a file of no owner": _folder_with("a,b"),
}
