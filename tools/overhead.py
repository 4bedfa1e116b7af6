"""python tools/overhead.py: the time of a sweep besides training, and the time of a large table.

python tools/overhead.py                     where the time of 50 trivial jobs in 2 slots goes
python tools/overhead.py --records 10000     the time of a table of that many generated records

Times depend on the machine and on what else runs on it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kd_bench.config.identity import digest, folder_name
from kd_bench.results.record import Record
from kd_bench.results.run_folder import RESULT, SWEEPS
from kd_bench.results.store import find_records, read_records
from kd_bench.utils.files import write_json
from kd_bench.utils.text.formatting import pluralize

METHODS = ("baseline", "logits", "st", "at", "st_at")
# Small networks, small images and one epoch, so that the costs common to all jobs remain.
TRIVIAL = (
    "dataset=synthetic",
    "dataset.source.train=40",
    "dataset.source.test=24",
    "dataset.source.num_classes=4",
    "dataset.source.size=8",
    "pair=resnet20-resnet8_half",
    "model.net.widths=[8,8,16,16]",
    "teacher.model.net.depth=8",
    "recipe=quickstart",
    "recipe.epochs=1",
    "recipe.batch_size=16",
    "teacher.recipe.epochs=1",
    "device=cpu",
)


def run(folder: Path, command: Sequence[str]) -> tuple[float, float]:
    """Run a command in a folder; its start time and its duration in seconds."""
    started = time.time()
    with open(folder / "log", "wb") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True)
    return started, time.time() - started


def sweep(folder: Path, jobs: int, slots: int, tensorboard: bool) -> tuple[float, float]:
    """Run the trivial jobs in a folder; their start time and duration in seconds."""
    seeds = ",".join(map(str, range(jobs // len(METHODS))))
    command = [sys.executable, "-m", "kd_bench", "-m", *TRIVIAL, f"seed={seeds}"]
    command += [f"method={','.join(METHODS)}", f"tensorboard={tensorboard}"]
    return run(folder, [*command, f"hydra.launcher.jobs_at_once={slots}"])


@dataclass(frozen=True)
class Overhead:
    """Where the time of a sweep goes."""

    jobs: int
    slots: int
    wall: float  # seconds
    training: float  # seconds of all jobs
    overhead_per_job: float  # seconds
    parts: dict[str, float]  # seconds of wall clock


def measure_overhead(jobs: int, slots: int, tensorboard: bool) -> Overhead:
    """Run a sweep of trivial jobs and measure where its time goes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started, wall = sweep(folder, jobs, slots, tensorboard)
        (jobs_file,) = (folder / "runs" / SWEEPS).glob("*.jsonl")
        prepared = jobs_file.stat().st_mtime - started
        runs = list(find_records(folder / "runs"))
        records = [record for _, record in runs]
        finished = [path.joinpath(RESULT).stat().st_mtime - started for path, _ in runs]
    seconds = [record.seconds_of_process or 0.0 for record in records]
    first_start = min(end - took for end, took in zip(finished, seconds, strict=True))
    last_end = max(finished)
    training = sum(record.seconds for record in records)
    set_up = sum(seconds) - training
    parts = {
        "composing, validating, freezing": prepared,
        "waiting for PyTorch, once": first_start - prepared,
        "set-up of each job": set_up / slots,
        "training and evaluation": training / slots,
        "launching, waiting, ending": last_end - first_start - (training + set_up) / slots,
        "table": wall - last_end,
    }
    per_job = (wall - training / slots) / len(records)
    return Overhead(len(records), slots, wall, training, per_job, parts)


def show_overhead(measured: Overhead) -> None:
    """Print the parts as a table."""
    print(
        f"{pluralize(measured.jobs, 'job')} in {pluralize(measured.slots, 'slot')}:"
        f" {measured.wall:.1f} s,"
        f" training {measured.training:.1f} s"
    )
    print(f"{'wall clock':<32}{'seconds':>9}{'per job':>9}{'share':>8}")
    for name, seconds in measured.parts.items():
        per_job, share = seconds / measured.jobs, seconds / measured.wall
        print(f"{name:<32}{seconds:9.2f}{per_job:9.3f}{share:8.1%}")
    print(f"{'(wall - training / slots) / jobs':<32}{'':9}{measured.overhead_per_job:9.3f}")


@dataclass(frozen=True)
class TableCost:
    """Seconds for a large table."""

    records: int
    reading: float
    reading_and_table: float


def measure_table(number: int) -> TableCost:
    """Time the table of many copies of a trivial job's record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "kd_bench", *TRIVIAL, "method=st", "runs_dir=one"]
        run(folder, command)
        write_copies(read_records(folder / "one")[-1], folder / "runs", number)
        script = Path(__file__).with_name("table.py").absolute()
        code = (
            "import sys; from kd_bench.results.store import read_records; read_records(sys.argv[1])"
        )
        _, reading = run(folder, [sys.executable, "-c", code, "runs"])
        _, whole = run(folder, [sys.executable, str(script), "--from", "runs"])
    return TableCost(number, reading, whole)


def write_copies(template: Record, root: Path, number: int, seeds: int = 10) -> None:
    """Write records that differ in method, model and seed, so that all are runs of one table."""
    for i in range(number):
        cell, seed = divmod(i, seeds)
        copy = _copy(template, f"m{cell % 25}", f"student{cell // 25}", seed, 50 + i * 7 % 100 / 4)
        path = root / copy.folder
        path.mkdir(parents=True)
        write_json(path / RESULT, copy.to_json())


def _copy(template: Record, method: str, model: str, seed: int, accuracy: float) -> Record:
    config, identity = template.config, template.identity
    identity = {
        **identity,
        "method": {**identity["method"], "name": method},
        "model": {**identity["model"], "name": model},
    }
    config = replace(
        config,
        method=replace(config.method, name=method),
        model=replace(config.model, name=model),
        seed=seed,
    )
    return replace(
        template,
        folder=folder_name(identity, seed),
        digest=digest(identity),
        identity=identity,
        config=config,
        accuracy=replace(template.accuracy, last=accuracy, best=accuracy),
    )


def main() -> None:
    """Measure, print the measurement, and optionally write it to a file."""
    parser = argparse.ArgumentParser(
        prog="python tools/overhead.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=50, help="number of trivial jobs")
    parser.add_argument("--slots", type=int, default=2, help="number of jobs at a time")
    parser.add_argument("--tensorboard", action="store_true", help="let jobs write event files")
    parser.add_argument("--records", type=int, help="time a table of this many records instead")
    parser.add_argument("--json", type=Path, help="also write the measurement into this file")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    measured: Overhead | TableCost
    if args.records:
        measured = measure_table(args.records)
        for name, value in asdict(measured).items():
            print(f"{name.replace('_', ' '):<20}{value:10.2f}")
    else:
        measured = measure_overhead(args.jobs, args.slots, args.tensorboard)
        show_overhead(measured)
    if args.json:
        write_json(args.json, asdict(measured))


if __name__ == "__main__":
    main()
