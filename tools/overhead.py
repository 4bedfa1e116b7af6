"""python tools/overhead.py: what a sweep costs beyond training, and a table of many runs.

python tools/overhead.py                     50 trivial jobs on 2 slots, and where their time goes
python tools/overhead.py --records 10000     the table of so many records, made for the purpose

Times are of this machine and of whatever else it does.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from kd_bench.config import identity
from kd_bench.jobs.job import FOLDER
from kd_bench.results.store import find_records, read_records
from kd_bench.utils.files import write_json

METHODS = ("baseline", "logits", "st", "at", "st_at")
# Small networks, small images, one epoch: what remains is what every job costs.
TRIVIAL = (
    "dataset=synthetic",
    "dataset.source.train=40",
    "dataset.source.test=24",
    "dataset.source.num_classes=4",
    "dataset.source.size=8",
    "pair=resnet20-resnet8_half",
    "model.net.widths=[4,4,8,8]",
    "teacher.model.net.depth=8",
    "recipe=quickstart",
    "recipe.epochs=1",
    "recipe.batch_size=16",
    "teacher.recipe.epochs=1",
    "device=cpu",
)


def run(folder: Path, command: Iterable[str]) -> tuple[float, float]:
    """Run a command: the time when it began, and how long it took."""
    began = time.time()
    with open(folder / "log", "wb") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True)
    return began, time.time() - began


def sweep(folder: Path, jobs: int, slots: int, tensorboard: bool) -> tuple[float, float]:
    """Run the trivial jobs in a folder: the time when it began, and how long it took."""
    seeds = ",".join(map(str, range(jobs // len(METHODS))))
    command = [sys.executable, "-m", "kd_bench", "-m", *TRIVIAL, f"seed={seeds}"]
    command += [f"method={','.join(METHODS)}", f"tensorboard={tensorboard}"]
    return run(folder, [*command, f"hydra.launcher.jobs_at_once={slots}"])


def overhead(jobs: int, slots: int, tensorboard: bool) -> dict:
    """Measure a sweep of trivial jobs and where its time goes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began, wall = sweep(folder, jobs, slots, tensorboard)
        found = list(find_records(folder / "runs"))
        (frozen,) = (folder / "runs" / FOLDER).glob("*.jsonl")
        froze = frozen.stat().st_mtime - began
        made = [(path.joinpath("result.json").stat().st_mtime, record) for path, record in found]
    count = len(made)
    started = min(end - record["seconds_of_process"] for end, record in made) - began
    ended = max(end for end, _ in made) - began
    training = sum(record["seconds"] for _, record in made)
    set_up = sum(record["seconds_of_process"] for _, record in made) - training
    working = (training + set_up) / slots
    parts = {
        "composing, checking, freezing": froze,
        "waiting for PyTorch, once": started - froze,
        "a job's own set-up": set_up / slots,
        "training and evaluation": training / slots,
        "launching, waiting, ending": ended - started - working,
        "table": wall - ended,
    }
    return {
        "jobs": count,
        "slots": slots,
        "wall": wall,
        "training": training,
        "overhead_per_job": (wall - training / slots) / count,
        "parts": parts,  # seconds of wall clock
    }


def show_overhead(found: Mapping) -> None:
    """Print the parts as a table."""
    print(
        f"{found['jobs']} jobs on {found['slots']} slots: {found['wall']:.1f} s,"
        f" training {found['training']:.1f} s"
    )
    print(f"{'wall clock':<32}{'seconds':>9}{'a job':>9}{'share':>8}")
    for name, seconds in found["parts"].items():
        job, share = seconds / found["jobs"], seconds / found["wall"]
        print(f"{name:<32}{seconds:9.2f}{job:9.3f}{share:8.1%}")
    overhead = found["overhead_per_job"]
    print(f"{'(wall - training) / jobs':<32}{'':9}{overhead:9.3f}")


def table(number: int) -> dict:
    """Measure the table of so many records, copies of one that a trivial job makes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "kd_bench", *TRIVIAL, "method=st", "runs_dir=one"]
        run(folder, command)
        template = read_records(folder / "one")[-1]
        write_copies(template, folder / "runs", number)
        script = Path(__file__).with_name("table.py").absolute()
        reading = (
            "import sys; from kd_bench.results.store import read_records; read_records(sys.argv[1])"
        )
        _, read = run(folder, [sys.executable, "-c", reading, "runs"])
        _, whole = run(folder, [sys.executable, str(script), "--from", "runs"])
    return {"records": number, "reading": read, "reading_and_table": whole}


def write_copies(template: Mapping, root: Path, number: int, seeds: int = 10) -> None:
    """Write records that differ in method, model and seed, so that a table has that many runs."""
    for i in range(number):
        cell, seed = divmod(i, seeds)
        record = copy.deepcopy(template)
        for place in (record["identity"], record["config"]):
            place["method"]["name"] = f"m{cell % 25}"
            place["model"]["name"] = f"student{cell // 25}"
        record["config"]["seed"] = seed
        record["accuracy"]["last"] = record["accuracy"]["best"] = 50 + i * 7 % 100 / 4
        record["folder"] = identity.folder_name(record["identity"], seed)
        record["digest"] = identity.digest(record["identity"])
        path = root / record["folder"]
        path.mkdir(parents=True)
        (path / "result.json").write_text(json.dumps(record, indent=1))


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=50, help="trivial jobs")
    parser.add_argument("--slots", type=int, default=2, help="of them at a time")
    parser.add_argument("--tensorboard", action="store_true", help="have jobs write event files")
    parser.add_argument("--records", type=int, help="measure a table of so many records instead")
    parser.add_argument("--json", type=Path, help="also write what was measured into this file")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.records:
        found = table(args.records)
        for name, value in found.items():
            print(f"{name.replace('_', ' '):<20}{value:10.2f}")
    else:
        found = overhead(args.jobs, args.slots, args.tensorboard)
        show_overhead(found)
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
