"""Selects the cases, tries them in several processes, and collects the results."""

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
QUICK = {"killed before a file operation": 5, "power cut before a file operation": 3}
GOLDEN = (5**0.5 - 1) / 2  # its multiples spread the quick cases over the kinds of damage


def all_cases(states: States) -> list[Case]:
    """All cases: about two hours on two cores."""
    return [
        *kills.cases(states, kills.ACTIONS),
        *kills.random_cases(states, 200, SEED),
        *damage.cases(states, places=(0.5, 0.1, 0.9)),
        *conditions.cases(states, rounds=10, every=1, seed=SEED),
    ]


def quick_cases(states: States) -> list[Case]:
    """One case of most rows, under a minute; slow sweeps only in rows that have no other case."""
    rows: dict[str, list[Case]] = defaultdict(list)
    for case in (
        *kills.cases(states, ("images",)),
        *kills.random_cases(states, 1, SEED),
        *damage.cases(states, places=(0.5,)),
        *conditions.cases(states, rounds=1, every=7, seed=SEED),
    ):
        rows[case.row].append(case)
    return [
        case
        for i, (row, some) in enumerate(rows.items())
        for case in _few(some, QUICK.get(row, 1), i * GOLDEN % 1)
    ]


def _few(cases: Sequence[Case], number: int, start: float) -> list[Case]:
    """Some cases of a row at equal distances, the first at the fraction `start` of a distance."""
    short = [case for case in cases if not case.runs_sweep] or cases[:1]
    number = min(number, len(short))
    return [short[int((i + start) * len(short) / number)] for i in range(number)]


def try_all(
    cases: Sequence[Case], scratch: Path, processes: int, patch: Patch = program.no_patch
) -> list[Result]:
    """Try cases in several processes; outcomes that are not allowed are printed at once.

    Args:
        cases: to try.
        scratch: the parent of all trial folders; those of failed trials are kept.
        processes: their number.
        patch: applied to kd-bench in all commands.
    """
    for case in cases:
        case.start()  # once, before forking
    workers = [os.fork() or _work(cases[i::processes], scratch, i, patch) for i in range(processes)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    if any(codes):
        raise RuntimeError("the harness itself failed, see above")
    return [result for i in range(processes) for result in _read(scratch / f"results.{i}")]


def _work(cases: Sequence[Case], scratch: Path, number: int, patch: Patch) -> int:
    """Try cases in this fork, write their results, and exit."""
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
    except BaseException:  # noqa: BLE001  # a fork must not continue with its parent's code
        traceback.print_exc()
    finally:
        os._exit(code)


def _read(path: Path) -> Iterable[Result]:
    for line in path.read_text().splitlines():
        row, name, outcome, seen = json.loads(line)
        yield Result(row, name, Outcome[outcome], seen)
