"""kd-bench rerun: a recorded job once more, and whether its numbers are equal bit for bit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kd_bench.cli.parser import Parser, with_data
from kd_bench.config import identity
from kd_bench.results.store import job_config, read_record
from kd_bench.utils.errors import require

DESCRIPTION = """\
Runs a recorded job again, its teacher first, and says whether accuracy and history.csv are equal
bit for bit; if not, what differs of device, threads, versions, commit and data. All that it needs
is in the record: neither conf/ nor other runs are looked at. Exit code 0: equal, 1: different.

  kd-bench rerun runs/digits/none-resnet8/baseline/3f9c1a2b/seed0
  kd-bench rerun results/digits/resnet20-resnet8/st/9a0b1c2d/seed1/result.json
"""


def main(words: Sequence[str]) -> int:
    """Run a record's job again and compare."""
    parser = Parser("rerun", DESCRIPTION)
    parser.add_argument("record", metavar="RECORD", help="a result.json, or the folder it is in")
    parser.add_runs_dir(None, "where to run (default: a new folder, kept if the numbers differ)")
    parser.add_device("the record's")
    parser.add_data()
    args = parser.parse(words)
    folder, old = read_record(args.record)
    config = with_data(job_config(old), args.data)
    config |= {"device": args.device or old["device"], "tensorboard": False, "chosen": chosen(old)}
    runs, new = _run(config, old["changed"], args.runs_dir)
    is_equal = _tell(old, folder, new, runs / new["folder"])
    if is_equal and args.runs_dir is None:
        shutil.rmtree(runs)
    else:
        print(f"the new run is in {runs / new['folder']}")
    return 0 if is_equal else 1


def chosen(record: Mapping[str, Any]) -> dict[str, bool]:
    """What a job of speed=fast chose by measuring: to be taken over, for it changes bits."""
    if record["speed"] != "fast":
        return {}
    return {name: record["execution"][name] for name in ("compiled", "autotuned")}


def _run(
    config: Mapping[str, Any], changed: Mapping[str, Any], runs_dir: str | None
) -> tuple[Path, dict]:
    """Run a job in a folder of its own, or in `runs_dir`: that folder, and the record."""
    from kd_bench.cli.progress import JobDisplay
    from kd_bench.jobs import (  # torch, which a mistake in the arguments is spared
        resolve,
        runner,
        validate,
    )

    validate.validate_job(config)
    require(
        runs_dir is None or not (Path(runs_dir) / resolve.folder_name(config)).exists(),
        f"{runs_dir} has this job already, so it would not be run again;"
        " give another folder with --runs-dir, or none",
    )
    runs = Path(runs_dir or tempfile.mkdtemp(prefix="kd-bench-rerun-"))
    show = JobDisplay()
    show.say(f"{runner.label(config, changed)}: running again in {runs}")
    record, _ = runner.run({**config, "runs_dir": str(runs)}, changed, show)
    return runs, record


# Comparing


def _tell(old: Mapping, old_folder: Path, new: Mapping, new_folder: Path) -> bool:
    """Print how two records of a job compare; whether their numbers are equal."""
    different = differing_numbers(old, new)
    histories = [_history(folder) for folder in (old_folder, new_folder)]
    if histories[0] is None:
        print("there is no history.csv beside the record: accuracies alone are compared")
    elif (epoch := first_difference(*histories)) is not None:
        different.append(f"history.csv differs from epoch {epoch} on")
    if different:
        print(f"DIFFERENT: {'; '.join(different)}")
    else:
        print(f"equal bit for bit: {old['accuracy']['last']:.2f} %")
    conditions = differing_conditions(old, new)
    if conditions:
        print(f"not the same then and now: {'; '.join(conditions)}")
    elif different:
        print(
            f"the same then and now: {', '.join(_conditions(old))}; so this is a bug, please tell"
        )
    return not different


def _history(folder: Path) -> list[str] | None:
    try:
        return (folder / "history.csv").read_text().splitlines()
    except FileNotFoundError:
        return None


def first_difference(old: Sequence[str], new: Sequence[str]) -> int | None:
    """The first epoch whose lines differ, 0 where the columns do; None where all are equal."""
    pairs = enumerate(zip_longest(old, new))
    return next((epoch for epoch, (was, now) in pairs if was != now), None)


def differing_numbers(old: Mapping, new: Mapping) -> list[str]:
    """Where the numbers of two records differ: "accuracy.last was 93.91, is 93.84"."""
    return _differing(_numbers(old), _numbers(new))


def _numbers(record: Mapping) -> dict[str, Any]:
    teacher = record["teacher"] or {}
    numbers = {"accuracy": record["accuracy"]}
    numbers |= {"teacher": {k: teacher[k] for k in ("accuracy", "agreement") if k in teacher}}
    return identity.flatten(numbers)


def differing_conditions(old: Mapping, new: Mapping) -> list[str]:
    """Which of what numbers may depend on, beside the job itself, differs between two records."""
    told = _differing(_conditions(old), _conditions(new))
    if old["dirty"] and new["dirty"] and old["commit"] == new["commit"]:
        told.append("uncommitted changes may be others")
    return told


def _conditions(record: Mapping) -> dict[str, Any]:
    commit = (record["commit"] or "unknown")[:12]
    changes = " with uncommitted changes" if record["dirty"] else ""
    return {
        "device": f"{record['device']} ({record['device_name']})",
        "threads": record["threads"],
        **record["versions"],
        "commit": commit + changes,
        "data": record["data_fingerprint"],
        "identity of the job": record["digest"],  # another where its method's code was revised
    }


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {was.get(name)}, is {now.get(name)}"
        for name in was | now
        if was.get(name) != now.get(name)
    ]
