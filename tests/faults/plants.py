"""Plants bugs in kd-bench that the harness must report."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from faults import conditions, damage, harness, kills
from faults.harness import Case
from faults.hook import NOTHING, Fault
from faults.oracle import Outcome
from faults.program import Patch
from faults.states import States
from kd_bench.cli import hydra_app
from kd_bench.training import checkpoint, loop
from kd_bench.utils.errors import UserError
from kd_bench.utils.lock import Lock


def check(states: States, scratch: Path) -> bool:
    """Whether each planted bug is reported as expected; prints the reports."""
    all_seen = True
    for patch, expected, case in plants(states):
        result = harness.attempt(case, scratch, patch)
        is_seen = result.outcome in expected
        all_seen &= is_seen
        names = " or ".join(outcome.value for outcome in expected)
        verdict = "reported" if is_seen else f"NOT REPORTED as {names}"
        print(f"{verdict}: {patch.__doc__} {result.outcome.value}: {result.seen}")
    return all_seen


def plants(states: States) -> Iterator[tuple[Patch, tuple[Outcome, ...], Case]]:
    """The planted bugs, the outcomes they must be reported as, and a case that reveals each."""
    images, job = states["images"], states["job"]
    killed = _case(states, "images", partial(kills.at_operation, images, Fault("kill", 1), NOTHING))
    end = Fault("power_cut", images.operation("unlink", f"/{checkpoint.CHECKPOINTS[0]}"))
    cut = _case(states, "images", partial(kills.at_operation, images, end, NOTHING))
    two = _case(states, "job", partial(conditions.two_at_once, job, 0.0))
    others = next(
        case
        for case in damage.cases(states, (0.5,))
        if case.name.startswith("checkpoint another job's")
    )
    yield _history_without_last_epoch, (Outcome.LOST,), killed
    yield _history_with_last_epoch_twice, (Outcome.DOUBLED,), killed
    # Two jobs in one folder train everything twice, or one removes a file that the other renames.
    yield _lock_for_all, (Outcome.DOUBLED, Outcome.TRACEBACK), two
    yield _weights_not_flushed, (Outcome.WRONG,), cut
    yield _checkpoint_not_checked, (Outcome.WRONG,), others
    yield _refusal_without_remedy, (Outcome.UNCLEAR,), killed
    yield _bug, (Outcome.TRACEBACK,), killed


def _case(states: States, name: str, play: Any) -> Case:
    return Case("planted", name, partial(states.start, name), play)


def _history_without_last_epoch() -> None:
    """The history lacks its last epoch."""
    write = loop.as_csv
    vars(loop)["as_csv"] = lambda rows: write(rows[:-1])


def _history_with_last_epoch_twice() -> None:
    """The history has its last epoch twice."""
    write = loop.as_csv
    vars(loop)["as_csv"] = lambda rows: write([*rows, rows[-1]])


def _lock_for_all() -> None:
    """Every process gets the lock."""
    Lock.__enter__ = lambda self: self
    Lock.__exit__ = lambda self, *error: None
    Lock.check = lambda self: None


def _weights_not_flushed() -> None:
    """The weights are not flushed to disk before their record is written."""
    flush = os.fsync

    def fsync(file: int) -> None:
        if "weights" not in os.readlink(f"/proc/self/fd/{file}"):
            flush(file)

    os.fsync = fsync


def _checkpoint_not_checked() -> None:
    """A checkpoint is loaded without checking its hash and its job."""
    vars(checkpoint)["_unpack"] = lambda content, _job: torch.load(
        io.BytesIO(content.partition(b"\n")[2]), weights_only=True
    )


def _refusal_without_remedy() -> None:
    """A refusal has neither the damaged file nor a remedy."""

    def refuse(*_words: Any, **_options: Any) -> int:
        raise UserError("something is wrong")

    vars(hydra_app)["main"] = refuse


def _bug() -> None:
    """The code has a bug."""
    vars(loop)["as_csv"] = None
