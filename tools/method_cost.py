"""python tools/method_cost.py: the time of a training step of each method, relative to st.

python tools/method_cost.py                      all methods that read only logits
python tools/method_cost.py dist mrd at          these methods, whatever they read
python tools/method_cost.py st+ea dkd+ea+swap    methods with plug-ins
python tools/method_cost.py --show costs.json    print an earlier measurement as a Markdown table

All of them take turns in one run, on random images of CIFAR's size. The networks take most of a
step, so the cost of a method shows best with small ones: the default is a small student.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from throughput.comparison import Candidate, benchmark, speed_ratio
from throughput.loops import OURS
from throughput.scenarios import write_teacher

import kd_bench
from kd_bench.cli.hydra_app import hydra_errors_as_user_errors
from kd_bench.config import compose
from kd_bench.config.schema import Config
from kd_bench.jobs.instantiate import build_dataset
from kd_bench.jobs.job import Job
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.validate import cache_shape, validate_job
from kd_bench.sweep.launchers import registry
from kd_bench.training.device import choose_device, configure_process, device_name
from kd_bench.utils.errors import UserError
from kd_bench.utils.files import write_json

REFERENCE = "st"
CLASSES = 10
METHODS = Path(__file__).parents[1] / "conf" / "method"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python tools/method_cost.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("methods", nargs="*", help="names in conf/method, +plug-ins")
    result.add_argument("--pair", default="resnet20-resnet8", help="a pair in conf/pair")
    result.add_argument("--batch", type=int, default=64, help="images per step")
    result.add_argument("--rounds", type=int, default=7)
    result.add_argument("--seconds", type=float, default=2.0, help="of each method in a round")
    result.add_argument("--show", type=Path, help="print an earlier measurement")
    result.add_argument("--out", type=Path, default=Path("method_cost.json"))
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    args = parser().parse_args(argv)
    if args.show:
        print(markdown(json.loads(args.show.read_text())))
        return 0
    compose.register_schema()
    registry.register()
    try:
        with hydra_errors_as_user_errors(), tempfile.TemporaryDirectory() as scratch:
            measured = measure(args, Path(scratch))
    except UserError as error:
        print(f"method_cost.py: {error}", file=sys.stderr)
        return 2
    write_json(args.out, measured)
    print(f"\n{markdown(measured)}\nwritten: {args.out}")
    return 0


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Images per second of each method, and the time of its steps relative to those of st."""
    configure_process(1)
    jobs = {name: make_job(name, args, scratch) for name in [REFERENCE, *args.methods]}
    if not args.methods:
        jobs |= logit_jobs(args, scratch)
    device = choose_device(jobs[REFERENCE].config.device)
    candidates = [Candidate(name, OURS, job) for name, job in jobs.items()]
    finished = benchmark(candidates, args.rounds, args.seconds, print)
    return {
        "pair": args.pair,
        "batch": args.batch,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "machine": device_name(device),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "kd_bench": kd_bench.__version__,
        "methods": {
            each.name: {
                "images_per_second": round(median(each.rates), 1),
                "step_to_st": asdict(speed_ratio(finished[0], each)),
            }
            for each in finished
        },
    }


def logit_jobs(args: argparse.Namespace, scratch: Path) -> dict[str, Job]:
    """The jobs of all methods in conf/method that fit the pair and read only logits."""
    jobs = {}
    for name in sorted(path.stem for path in METHODS.glob("*.yaml")):
        job = make_job(name, args, scratch)
        if job.config.method.chain:  # another teacher, with the step of st
            continue
        try:
            # A teacher cache would contain exactly the teacher outputs that the method reads.
            shape = cache_shape(job)
            if shape is not None and shape[1] == CLASSES:
                validate_job(job)
                jobs[name] = job
        except UserError:  # it needs a teacher of the student's model, or a special student
            continue
    return jobs


def make_job(method: str, args: argparse.Namespace, scratch: Path) -> Job:
    """The job of a method, with an untrained teacher loaded from a file."""
    checkpoint = scratch / "teacher.pt"
    method, *plugins = method.split("+")
    config, changed = compose.compose_standalone(
        [
            "dataset=synthetic",
            "dataset.source.size=32",
            f"dataset.source.num_classes={CLASSES}",
            "dataset.source.train=5120",
            "dataset.source.test=128",
            "dataset.pad=4",
            "dataset.flip=true",
            f"pair={args.pair}",
            f"method={method}",
            f"plugin=[{','.join(plugins)}]",
            "recipe=crd240",
            f"recipe.batch_size={args.batch}",
            "tensorboard=false",
            f"runs_dir={scratch / 'runs'}",
            f"teacher.checkpoint={checkpoint}",
        ],
        None,
    )
    _write_teacher_once(config, checkpoint)
    return resolve_job(config, changed)


def _write_teacher_once(config: Config, checkpoint: Path) -> None:
    if not checkpoint.exists():
        write_teacher(config, build_dataset(config.dataset).load(), checkpoint)


def markdown(measured: dict[str, Any]) -> str:
    """A measurement as a table, the cheapest method first."""
    lines = [
        f"| {measured['pair']}, batch {measured['batch']} | images/s | time of a step, to `st` |"
        " range |",
        "| :-- | --: | --: | --: |",
    ]
    rows = sorted(measured["methods"].items(), key=lambda row: row[1]["step_to_st"]["median"])
    for name, row in rows:
        ratio = row["step_to_st"]
        lines.append(
            f"| `{name}` | {row['images_per_second']:,.0f} | {ratio['median']:.2f} |"
            f" {ratio['low']:.2f} to {ratio['high']:.2f} |"
        )
    about = (
        f"{measured['machine']}, one thread, torch {measured['torch']}; {measured['rounds']} rounds"
        f" of {measured['seconds']:g} s, every method in each round, median and range over rounds."
    )
    return "\n".join([*lines, "", about])


if __name__ == "__main__":
    sys.exit(main())
