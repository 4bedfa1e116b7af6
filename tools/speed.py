"""python tools/speed.py: training speed of kd-bench and of plain PyTorch loops, in the same run.

python tools/speed.py                       a typical job for this machine's GPU, or its CPU
python tools/speed.py --quick               the same in a few minutes, less precise
python tools/speed.py --show speed.json     print an earlier measurement as a Markdown table
python tools/speed.py --student resnet8x4 --teacher resnet32x4 --method st --batch 64 128

Images are random and of CIFAR's size unless --dataset is given. Results are printed, and written
as JSON and as a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from throughput import agreement, report, roofline
from throughput.comparison import Candidate, benchmark, speed_ratio
from throughput.loops import OURS_CACHED, PLAIN, TUNED
from throughput.scenarios import Scenario, candidates, with_config, write_teacher

import kd_bench
from kd_bench.cli.hydra_app import hydra_errors_as_user_errors
from kd_bench.config import compose
from kd_bench.config.schema import Device
from kd_bench.jobs.instantiate import build_dataset
from kd_bench.jobs.job import Job, write_jobs
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.validate import validate_job
from kd_bench.results.run_folder import read_record
from kd_bench.sweep.launchers import registry
from kd_bench.training.device import choose_device, configure_process, device_name
from kd_bench.utils import process
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import write_json

SCRIPT = "tools/speed.py"
ON_CPU = [Scenario("resnet20", "resnet56", "st", 64, packed=(2,))]
ON_GPU = [
    Scenario("resnet20", "resnet20", "st", 128, packed=(2, 4, 8)),
    Scenario("resnet20", "resnet20", "baseline", 1024, packed=()),
]
EPOCHS, IMAGES = 5, 2_048  # of the whole job; images per epoch


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog=f"python {SCRIPT}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    devices = [device.value for device in Device]
    result.add_argument("--student", help="a model in conf/model")
    result.add_argument("--teacher", help="its teacher")
    result.add_argument("--method", default="st", help="baseline for training without a teacher")
    result.add_argument("--batch", type=int, nargs="+", default=[64], help="images per step")
    result.add_argument("--jobs", type=int, nargs="*", default=[2], help="numbers of jobs at once")
    result.add_argument("--dataset", help="a dataset in conf/dataset, instead of random images")
    result.add_argument("--images", type=int, help="number of random images to train on")
    result.add_argument("--device", choices=devices, default="auto")
    result.add_argument("--threads", type=int, help="per job on a CPU (default: all cores)")
    result.add_argument(
        "--workers", type=int, help="DataLoader workers (default: cores, at most 8)"
    )
    result.add_argument("--rounds", type=int, default=7)
    result.add_argument("--seconds", type=float, default=4.0, help="per candidate and round")
    result.add_argument("--quick", action="store_true", help="3 rounds of 2 seconds")
    result.add_argument("--only", nargs="+", help="only candidates with one of these in their name")
    result.add_argument("--no-whole", action="store_true", help="skip the whole job")
    result.add_argument("--show", type=Path, help="print a speed.json as a Markdown table")
    result.add_argument("--out", default="speed", help="name of speed.json and speed.png")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit status, 1 if losses disagree."""
    args = parser().parse_args(argv)
    if args.quick:
        args.rounds, args.seconds = 3, 2.0
    try:
        if args.show:
            print(report.markdown(_read(args.show)), end="")
            return 0
        return _measure_and_write(args)
    except UserError as error:
        print(f"speed.py: {error}", file=sys.stderr)
        return 2


def _read(path: Path) -> dict[str, Any]:
    """An earlier measurement."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _measure_and_write(args: argparse.Namespace) -> int:
    compose.register_schema()
    registry.register()
    is_equal = True
    with hydra_errors_as_user_errors(), tempfile.TemporaryDirectory() as scratch:
        for measured in measure(args, Path(scratch)):  # written after each, in case time runs out
            write_json(Path(f"{args.out}.json"), measured)
            report.plot(measured, Path(f"{args.out}.png"))
            print(f"\nwritten: {args.out}.json, {args.out}.png")
            is_equal = all(scenario["agreement"]["is_equal"] for scenario in measured["scenarios"])
    return 0 if is_equal else 1


def scenarios(args: argparse.Namespace, has_gpu: bool) -> list[Scenario]:
    """The scenarios selected by the arguments, or the typical ones for the machine."""
    if args.student is None and args.teacher is None:
        return ON_GPU if has_gpu else ON_CPU
    require(min(args.jobs, default=1) >= 1, "--jobs must be 1 or more")
    require(
        args.student and (args.teacher or args.method == "baseline"),
        "give --student and --teacher, or --student and --method baseline",
    )
    teacher = args.teacher or args.student
    packed = tuple(args.jobs)
    return [Scenario(args.student, teacher, args.method, batch, packed) for batch in args.batch]


def measure(args: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """Yields all measurements so far after each scenario, as plain values."""
    device = choose_device(Device(args.device))
    cores = len(os.sched_getaffinity(0))
    threads = args.threads or cores
    configure_process(threads)
    bandwidth = roofline.copy_bandwidth(device)
    machine = {
        "device": device.type,
        "name": device_name(device),
        "cores": cores,
        "threads": threads,
        "copy_gb_per_second": round(bandwidth / 1e9, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "mps": has_mps(),
        "kd_bench": kd_bench.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    head = {"machine": machine, "rounds": args.rounds, "seconds": args.seconds}
    measured = []
    for scenario in scenarios(args, device.type == "cuda"):
        print(f"\n{scenario.name}")
        job = make_job(scenario, args, scratch, device, threads)
        measured.append(measure_scenario(scenario, job, args, device, bandwidth, cores))
        yield {**head, "scenarios": measured}


def has_mps() -> bool:
    """Whether NVIDIA's Multi-Process Service runs, which lets jobs share a GPU in parallel."""
    for name in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # the process has ended
            if "nvidia-cuda-mps" in name.read_text():
                return True
    return False


def make_job(
    scenario: Scenario,
    args: argparse.Namespace,
    scratch: Path,
    device: torch.device,
    threads: int,
) -> Job:
    """The job of a scenario, validated, with a teacher loaded from a file."""
    # Long epochs, which seldom end within a round: at an epoch's end, a DataLoader restarts its
    # workers.
    images = args.images or 20_000
    dataset = [f"dataset={args.dataset}"]
    if args.dataset is None:
        dataset = [
            "dataset=synthetic",
            "dataset.source.size=32",
            f"dataset.source.train={images}",
            f"dataset.source.test={images // 5}",
            "dataset.pad=4",
            "dataset.flip=true",
        ]
    checkpoint = scratch / f"{scenario.teacher}.pt"
    options = [
        f"device={device.type}",
        f"threads={threads}",
        f"runs_dir={scratch / 'runs'}",
        f"teacher.checkpoint={checkpoint}",
    ]
    config, changed = compose.compose_standalone([*dataset, *scenario.overrides(), *options], None)
    data = build_dataset(config.dataset).load()
    require(
        config.recipe.batch_size <= data.train_size,
        f"--batch must be at most the {data.train_size:,} training images",
    )
    write_teacher(config, data, checkpoint)
    job = resolve_job(config, changed)
    validate_job(job)
    return job


def measure_scenario(
    scenario: Scenario,
    job: Job,
    args: argparse.Namespace,
    device: torch.device,
    bandwidth: float,
    cores: int,
) -> dict[str, Any]:
    """The speed of a scenario's job in all variants, as plain values."""
    agreed = compare_losses(job)
    loader_workers = min(8, cores) if args.workers is None else args.workers
    is_gpu = device.type == "cuda"
    variants = candidates(job, scenario, has_gpu=is_gpu, cores=cores, loader_workers=loader_workers)
    if args.only:
        wanted = [*args.only, PLAIN]
        variants = [c for c in variants if any(text in c.name for text in wanted)]
    finished = benchmark(variants, args.rounds, args.seconds, print)
    limits = measure_limits(finished, is_gpu)
    plain = finished[0]
    tuned = next((c for c in finished if c.kind == TUNED), plain)
    rows = [
        make_row(candidate, plain, tuned, limits[resources(candidate, is_gpu)], bandwidth)
        for candidate in finished
    ]
    print(report.lines(rows))
    return {
        "name": scenario.name,
        **asdict(scenario),
        "train_images": build_dataset(job.config.dataset).describe().train_size,
        "loader_workers": loader_workers,
        "agreement": agreed,
        "limits": [
            {"processes": processes, "threads": threads, **values}
            for (processes, threads), values in sorted(limits.items())
        ],
        "candidates": rows,
        "whole_job": None if args.no_whole else time_whole_job(job),
    }


def compare_losses(job: Job) -> dict[str, Any]:
    """Compare the first losses of kd-bench and of the plain loop.

    The learning rate is low: at a high one, two runs that differ in the last bit diverge.
    """
    recipe = replace(job.config.recipe, lr=5e-4, milestones=[])
    ours, plain = agreement.losses(with_config(job, recipe=recipe))
    difference = agreement.largest_difference(ours, plain)
    is_equal = difference <= agreement.TOLERANCE
    print(
        f"losses of the first {len(ours)} steps, ours and plain:"
        f" {'equal' if is_equal else 'NOT EQUAL'}, largest relative difference {difference:.1e}"
    )
    return {"is_equal": is_equal, "worst": difference, "ours": ours, "plain": plain}


def resources(candidate: Candidate, is_gpu: bool) -> tuple[int, int]:
    """Processes and threads of a candidate's limit; on a GPU, its processes share one limit."""
    return 1 if is_gpu else candidate.processes, candidate.job.config.threads


def measure_limits(
    finished: Sequence[Candidate], is_gpu: bool
) -> dict[tuple[int, int], dict[str, Any]]:
    """The limits of the candidates, by their resources."""
    # Reversed, so that the first candidate with the same resources is used.
    jobs = {resources(c, is_gpu): c.job for c in reversed(finished)}
    return {key: roofline.measure_limits(job, key[0]) for key, job in jobs.items()}


def make_row(
    candidate: Candidate,
    plain: Candidate,
    tuned: Candidate,
    limits: Mapping[str, Any],
    bandwidth: float,
) -> dict[str, Any]:
    """The measurements of a candidate as plain values."""
    config = candidate.job.config
    precision = candidate.precision or config.precision.value
    suffix = "_with_a_table" if candidate.kind == OURS_CACHED else ""
    bytes_moved = limits[f"numbers_moved_per_image{suffix}"] * (2 if precision == "bf16" else 4)
    rate = sorted(candidate.rates)[len(candidate.rates) // 2]
    return {
        "name": candidate.name,
        "images_per_second": rate,
        "rates": candidate.rates,
        "ratio_to_plain": asdict(speed_ratio(candidate, plain)),
        "ratio_to_tuned": asdict(speed_ratio(candidate, tuned)),
        "of_traffic_limit": rate * bytes_moved / bandwidth,
        "of_convolution_limit": rate / limits[f"convolutions_alone{suffix}"][precision],
        "start_seconds": max(start["import"] for start in candidate.starts),
        "prepare_seconds": max(start["prepare"] for start in candidate.starts),
        "threads": config.threads,
        "jobs": candidate.processes,
    }


def time_whole_job(job: Job) -> dict[str, float]:
    """Seconds of a short job's process, and of its training."""
    config = job.config
    source = config.dataset.source
    if "train" in source:  # random images
        source = {**source, "train": min(IMAGES, source["train"])}
    short = with_config(
        job,
        dataset=replace(config.dataset, source=source),
        recipe=replace(config.recipe, epochs=EPOCHS),
    )
    jobs = write_jobs([short], "whole")
    command = [sys.executable, "-m", "kd_bench.jobs.worker", str(jobs), "0"]
    started = time.perf_counter()
    subprocess.run(command, env=os.environ | process.job_environment(config.threads), check=True)
    seconds = time.perf_counter() - started
    record = read_record(short.path)
    if record is None:
        raise RuntimeError(f"the job in {short.path} ended without a result")
    print(
        f"a whole job of {EPOCHS} epochs from the shell: {seconds:.1f} s,"
        f" training {record.seconds:.1f} s"
    )
    return {
        "epochs": EPOCHS,
        "images": record.images.train,
        "seconds": seconds,
        "training_seconds": record.seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
