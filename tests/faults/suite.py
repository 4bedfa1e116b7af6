"""Chooses what to try, tries it in several processes, and keeps how it ended."""

from __future__ import annotations

import json
import os
import traceback
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from faults import conditions, damage, harness, kills, oracle, program
from faults.harness import Case, Result
from faults.oracle import Outcome
from faults.program import Patch
from faults.states import States

SEED = 0
QUICK = {"killed before a file operation": 9, "power cut before a file operation": 5}
QUICK_DEFAULT = 2  # cases of any other row


def all_cases(states: States) -> list[Case]:
    """Everything: about two hours on two cores."""
    return [
        *kills.cases(states, kills.ACTIONS),
        *kills.random_cases(states, 200, SEED),
        *damage.cases(states, places=(0.5, 0.1, 0.9)),
        *conditions.cases(states, rounds=10, every=1, seed=SEED),
    ]


def quick_cases(states: States) -> list[Case]:
    """A few of each row, under a minute; sweeps, which take seconds, only where a row is theirs."""
    rows: dict[str, list[Case]] = defaultdict(list)
    for case in (
        *kills.cases(states, ("images",)),
        *kills.random_cases(states, QUICK_DEFAULT, SEED),
        *damage.cases(states, places=(0.5,)),
        *conditions.cases(states, rounds=1, every=7, seed=SEED),
    ):
        rows[case.row].append(case)
    return [
        case for row, some in rows.items() for case in _few(some, QUICK.get(row, QUICK_DEFAULT))
    ]


def _few(cases: Sequence[Case], number: int) -> list[Case]:
    """Some cases of a row, from all over it."""
    short = [case for case in cases if not case.runs_sweep] or cases[:1]
    number = min(number, len(short))
    return [short[(2 * i + 1) * len(short) // (2 * number)] for i in range(number)]


def try_all(
    cases: Sequence[Case], scratch: Path, processes: int, patch: Patch = program.no_patch
) -> list[Result]:
    """Try cases in several processes; what ends as it must not is printed at once.

    Args:
        cases: to try.
        scratch: for the folders of trials; those that fail are kept.
        processes: how many.
        patch: of kd-bench, in all commands.
    """
    for case in cases:
        case.start()  # made here, once for all processes
    workers = [os.fork() or _work(cases[i::processes], scratch, i, patch) for i in range(processes)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    if any(codes):
        raise RuntimeError("the harness itself failed, see above")
    return [result for i in range(processes) for result in _read(scratch / f"results.{i}")]


def _work(cases: Sequence[Case], scratch: Path, number: int, patch: Patch) -> int:
    """Try cases in this fork, write how they ended, and exit."""
    code = 1
    try:
        with open(scratch / f"results.{number}", "w") as file:
            for case in cases:
                result = harness.attempt(case, scratch, patch)
                if result.outcome not in oracle.ALLOWED:
                    print(f"{result.outcome.value}: {result.name}: {result.seen}", flush=True)
                values = [result.row, result.name, result.outcome.name, result.seen]
                print(json.dumps(values), file=file, flush=True)
        code = 0
    except BaseException:  # noqa: BLE001  # a fork must not go on as its parent would
        traceback.print_exc()
    finally:
        os._exit(code)


def _read(path: Path) -> Iterable[Result]:
    for line in path.read_text().splitlines():
        row, name, outcome, seen = json.loads(line)
        yield Result(row, name, Outcome[outcome], seen)
