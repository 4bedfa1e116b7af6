"""Faults at any moment: kills, power cuts, Ctrl-C, a full disk, a folder that disappears."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Collection, Iterator
from functools import partial

from faults.harness import Case, Trial
from faults.hook import MAKES_FILES, NOTHING, Fault
from faults.oracle import Found, Outcome
from faults.states import Scenario, States

EVERY = ("open", "mkdir", "fsync", "rename", "unlink", "rmdir", "link", "symlink")
ROWS = {  # action -> its row in the summary, and the operations before which it has an effect
    "kill": ("killed before a file operation", EVERY),
    "tear": ("killed within a write", ("fsync",)),
    "power_cut": ("power cut before a file operation", EVERY),
    "interrupt": ("Ctrl-C before a file operation", EVERY),
    "interrupt_twice": ("Ctrl-C twice before a file operation", EVERY),
    "full_disk": ("disk full from a file operation on", MAKES_FILES),
    "lose_folder": ("runs folder gone from a file operation on", EVERY),
}
ACTIONS = {  # scenario -> the actions tried before each of its operations
    "job": tuple(ROWS),
    "cached teacher": ("kill", "tear", "power_cut", "full_disk"),
    "two phases": ("kill", "power_cut"),
    "images": ("kill", "power_cut", "full_disk"),
    "sweep": ("kill", "interrupt", "full_disk", "lose_folder"),  # in its own process, not in jobs
}
ACTIONS_OF_JOBS = ("kill", "full_disk")  # in each job of a sweep
OFTEN = ("job", "cached teacher", "two phases")  # scenarios killed at random moments


def cases(states: States, names: Collection[str]) -> Iterator[Case]:
    """Every action before every file operation of some scenarios."""
    for name in names:
        for action in ACTIONS[name]:
            for operation in states[name].operations:
                if operation.name in ROWS[action][1]:
                    fault = Fault(action, operation.number)
                    yield _case(states, name, fault, NOTHING, operation.text)
    for action in ACTIONS_OF_JOBS if "sweep" in names else ():
        for operation in states["job"].operations[::8]:
            yield _case(states, "sweep", NOTHING, Fault(action, operation.number), "of each job")


def _case(states: States, name: str, fault: Fault, fault_of_jobs: Fault, where: str) -> Case:
    happens = fault_of_jobs if fault is NOTHING else fault
    what = f"{name}, {happens.text}: {where}"
    play = partial(at_operation, states[name], fault, fault_of_jobs)
    return Case(ROWS[happens.action][0], what, partial(states.start, name), play, name == "sweep")


def random_cases(states: States, number: int, seed: int) -> Iterator[Case]:
    """Kills at random moments, one to three in a row."""
    draw = random.Random(seed)
    for i in range(number):
        name = draw.choice(OFTEN)
        moments = [draw.uniform(0, states[name].seconds) for _ in range(draw.randint(1, 3))]
        times = ", ".join(f"{moment:.3f}" for moment in moments)
        what, play = f"{name}, {i}: after {times} s", partial(_at_moments, states[name], moments)
        yield Case("killed at random moments", what, partial(states.start, name), play)


def at_operation(scenario: Scenario, fault: Fault, fault_of_jobs: Fault, trial: Trial) -> Outcome:
    """Inject a fault into the first run of the command."""
    trial.run(scenario.words, fault, fault_of_jobs)
    if "full_disk" in (fault.action, fault_of_jobs.action):
        _check_no_halves(trial)
    _return_folder(trial)
    outcome = trial.finish(scenario)
    if fault.action != "lose_folder":  # it trains again at the old path
        trial.check_trained_once()
    return outcome


def _check_no_halves(trial: Trial) -> None:
    """Check that no half-written file takes up space on a full disk.

    Raises:
        Found: one does.
    """
    parts = trial.work.rglob("*.part")
    if halves := [path for path in parts if not path.name.startswith("rows.")]:  # rows.* resume
        raise Found(Outcome.WRONG, f"{halves[0]} is left on a full disk")


def _return_folder(trial: Trial) -> None:
    """Bring back the folder that disappeared, like a mount, which hides files written meanwhile."""
    if (elsewhere := trial.work / "runs_elsewhere").exists():
        shutil.rmtree(trial.work / "runs", ignore_errors=True)
        elsewhere.rename(trial.work / "runs")


def _at_moments(scenario: Scenario, moments: list[float], trial: Trial) -> Outcome:
    for moment in moments:
        running = trial.start(scenario.words)
        time.sleep(moment)
        running.kill()
        trial.end(running)
    outcome = trial.finish(scenario)
    trial.check_trained_once()
    return outcome
