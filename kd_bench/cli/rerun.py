"""kd-bench rerun: reruns a recorded job and compares the results bit for bit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kd_bench.cli.common.parser import Parser, with_data
from kd_bench.cli.common.trust import check_calls
from kd_bench.config.convert import to_plain
from kd_bench.config.identity import flatten
from kd_bench.config.schema import Config, Device
from kd_bench.results.record import Record
from kd_bench.results.run_folder import HISTORY, RESULT
from kd_bench.results.store import open_record
from kd_bench.utils.errors import require
from kd_bench.utils.text.output import print_lines

DESCRIPTION = """\
Reruns a recorded job, its teacher first, and checks whether accuracy and history.csv are equal bit
for bit; if not, lists the differences in device, threads, versions, commit and data. The record is
sufficient: neither conf/ nor other runs are read. Exit code 0: equal, 1: different.

  kd-bench rerun runs/digits/none-resnet8/baseline/3f9c1a2b/seed0
  kd-bench rerun results/digits/resnet20-resnet8/st/9a0b1c2d/seed1/result.json

A record that calls code outside kd-bench is refused unless you --trust its package.
"""


def main(words: Sequence[str]) -> int:
    """Rerun a record's job and compare."""
    parser = Parser("rerun", DESCRIPTION)
    parser.add_argument("record", metavar="RECORD", help="a result.json, or its folder")
    parser.add_runs_dir(None, "where to run (default: a new folder, kept if the numbers differ)")
    parser.add_device("the record's")
    parser.add_data()
    parser.add_trust()
    args = parser.parse(words)
    folder, old = open_record(args.record)
    check_calls(folder / RESULT, old.config, args.trust)
    device = Device(args.device or old.device)
    config = replace(with_data(old.config, args.data), device=device, tensorboard=False)
    runs, new = _run(config, old.changed, args.runs_dir)
    is_equal = _print_comparison(old, folder, new, runs / new.folder)
    if is_equal and args.runs_dir is None:
        shutil.rmtree(runs)
    else:
        print_lines(f"the new run is in {runs / new.folder}")
    return 0 if is_equal else 1


def _run(config: Config, changed: Mapping[str, Any], runs_dir: str | None) -> tuple[Path, Record]:
    """Run a job in `runs_dir` or a new folder; return this folder and the record."""
    # Imported here because torch takes seconds, and the arguments are checked before.
    from kd_bench.cli.common.progress import JobDisplay
    from kd_bench.jobs.resolve import resolve_job
    from kd_bench.jobs.runner import run_with_teacher
    from kd_bench.jobs.validate import validate_job
    from kd_bench.training.device import choose_device

    job = resolve_job(config, changed)
    validate_job(job)
    choose_device(config.device)  # refuses cuda without a GPU before a folder is created
    require(
        runs_dir is None or not (Path(runs_dir) / job.folder).exists(),
        f"{runs_dir} has this job already, so it would not be run again;"
        " choose another folder with --runs-dir, or leave it out",
    )
    runs = Path(runs_dir or tempfile.mkdtemp(prefix="kd-bench-rerun-"))
    job = resolve_job(replace(config, runs_dir=str(runs)), changed)
    display = JobDisplay()
    display.message(f"{job.label}: running again in {runs}")
    record, _ = run_with_teacher(job, display)
    return runs, record


# Comparing


def _print_comparison(old: Record, old_folder: Path, new: Record, new_folder: Path) -> bool:
    """Print a comparison of two records of a job; return whether their results are equal."""
    different = differing_numbers(old, new)
    old_history, new_history = (_history(folder) for folder in (old_folder, new_folder))
    if old_history is None or new_history is None:
        print_lines(f"no {HISTORY} beside the record: only accuracies are compared")
    elif (epoch := first_difference(old_history, new_history)) is not None:
        different.append(f"{HISTORY} differs from epoch {epoch} on")
    if different:
        print_lines(f"DIFFERENT: {'; '.join(different)}")
    else:
        print_lines(f"equal bit for bit: {old.accuracy.last:.2f} %")
    conditions = differing_conditions(old, new)
    if conditions:
        print_lines(f"conditions that differ: {'; '.join(conditions)}")
    elif different:
        same = ", ".join(_conditions(old))
        print_lines(f"conditions are equal: {same}; so this is a bug, please report it")
    return not different


def _history(folder: Path) -> list[str] | None:
    try:
        return (folder / HISTORY).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None


def first_difference(old: Sequence[str], new: Sequence[str]) -> int | None:
    """The first epoch with different lines; 0 if the columns differ; None if all are equal."""
    pairs = enumerate(zip_longest(old, new))
    return next((epoch for epoch, (was, now) in pairs if was != now), None)


def differing_numbers(old: Record, new: Record) -> list[str]:
    """The differences in the results of two records: "accuracy.last was 93.91, is 93.84"."""
    return _differing(_numbers(old), _numbers(new))


def _numbers(record: Record) -> dict[str, Any]:
    numbers = flatten({"accuracy": to_plain(record.accuracy)})
    if record.teacher is not None:
        numbers["teacher.accuracy"] = record.teacher.accuracy
        numbers["teacher.agreement"] = record.teacher.agreement
    return numbers


def differing_conditions(old: Record, new: Record) -> list[str]:
    """The differences in conditions, other than the job, that results may depend on."""
    found = _differing(_conditions(old), _conditions(new))
    if old.dirty and new.dirty and old.commit == new.commit:
        found.append("uncommitted changes may differ")
    return found


def _conditions(record: Record) -> dict[str, Any]:
    commit = (record.commit or "unknown")[:12]
    changes = " with uncommitted changes" if record.dirty else ""
    return {
        "device": f"{record.device} ({record.device_name})",
        "threads": record.threads,
        **record.versions,
        "commit": commit + changes,
        "data": record.data_fingerprint,
        "identity of the job": record.digest,  # differs if its method's code was revised
    }


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {was.get(name)}, is {now.get(name)}"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
