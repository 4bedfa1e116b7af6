"""python tools/speed.py: how fast kd-bench trains, against plain PyTorch loops in the same run.

python tools/speed.py                       what this machine is for: its GPU, else its CPU
python tools/speed.py --quick               the same in a few minutes, less exactly
python tools/speed.py --show speed.json     what was found then, as a table in Markdown
python tools/speed.py --student resnet8x4 --teacher resnet32x4 --method st --batch 64 128

Images are random ones of CIFAR's size unless --dataset names others. Results are printed, and
written as JSON and as a plot.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from throughput import agreement, report, roofline
from throughput.contest import Candidate, benchmark, ratio
from throughput.scenarios import Scenario, candidates, write_teacher

import kd_bench
from kd_bench.cli.hydra_app import hydra_errors_as_user_errors
from kd_bench.config import compose
from kd_bench.config.compose import register_schema
from kd_bench.jobs import instantiate, resolve, validate
from kd_bench.sweep.launchers import registry as launchers
from kd_bench.training.device import choose_device, device_name, prepare_torch
from kd_bench.utils import process
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import write_json

SCRIPT = "tools/speed.py"
ON_CPU = [Scenario("resnet20", "resnet56", "st", 64, packed=(2,))]
ON_GPU = [
    Scenario("resnet20", "resnet20", "st", 128, packed=(2, 4, 8)),
    Scenario("resnet20", "resnet20", "baseline", 1024, packed=()),
]
EPOCHS, SHORT = 5, 2_048  # of the whole job: epochs, and images of one
Config = Mapping[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog=f"python {SCRIPT}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--student", help="a model of conf/model")
    result.add_argument("--teacher", help="its teacher")
    result.add_argument("--method", default="st", help="baseline: without a teacher")
    result.add_argument("--batch", type=int, nargs="+", default=[64], help="images of a step")
    result.add_argument("--jobs", type=int, nargs="*", default=[2], help="jobs at once")
    result.add_argument("--dataset", help="a data set of conf/dataset, instead of random images")
    result.add_argument("--images", type=int, help="number of random images to train on")
    result.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    result.add_argument("--threads", type=int, help="of a job on a CPU; all cores, if not given")
    result.add_argument("--workers", type=int, help="of a DataLoader; as many as cores, at most 8")
    result.add_argument("--rounds", type=int, default=7)
    result.add_argument("--seconds", type=float, default=4.0, help="of each contestant in a round")
    result.add_argument("--quick", action="store_true", help="3 rounds of 2 seconds")
    result.add_argument("--only", nargs="+", help="contestants whose names contain one of these")
    result.add_argument("--no-whole", action="store_true", help="leave out the whole job")
    result.add_argument("--show", type=Path, help="print a speed.json as a table in Markdown")
    result.add_argument("--out", default="speed", help="of the files: speed.json, speed.png")
    return result


def main(typed: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    args = parser().parse_args(typed)
    if args.show:
        return show(args.show)
    if args.quick:
        args.rounds, args.seconds = 3, 2.0
    register_schema()
    launchers.register()
    try:
        with hydra_errors_as_user_errors(), tempfile.TemporaryDirectory() as scratch:
            for found in measure(args, Path(scratch)):  # written after each, should time run out
                write_json(Path(f"{args.out}.json"), found)
                report.plot(found, Path(f"{args.out}.png"))
                print(f"\nwritten: {args.out}.json, {args.out}.png")
    except UserError as error:
        print(f"speed.py: {error}", file=sys.stderr)
        return 2
    return 0 if all(scene["agreement"]["is_equal"] for scene in found["scenes"]) else 1


def show(path: Path) -> int:
    """Print an earlier measurement."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        print(f"speed.py: cannot read {path}: {error.strerror}", file=sys.stderr)
        return 2
    print(report.markdown(json.loads(text)), end="")
    return 0


def scenes(args: argparse.Namespace, has_gpu: bool) -> list[Scenario]:
    """What was asked for; else what is worth knowing of such a machine."""
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
    """Everything that was measured so far, as plain values, after each scene."""
    device = choose_device(args.device)
    cores = len(os.sched_getaffinity(0))
    threads = args.threads or cores
    prepare_torch(threads)
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
    about = {"machine": machine, "rounds": args.rounds, "seconds": args.seconds}
    found = []
    for scene in scenes(args, device.type == "cuda"):
        found.append(measure_scene(scene, args, scratch, device, bandwidth, cores, threads))
        yield {**about, "scenes": found}


def has_mps() -> bool:
    """Whether NVIDIA's Multi-Process Service runs, which lets jobs on one GPU run side by side."""
    for name in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # a process that has ended since
            if "nvidia-cuda-mps" in name.read_text():
                return True
    return False


def measure_scene(
    scene: Scenario,
    args: argparse.Namespace,
    scratch: Path,
    device: torch.device,
    bandwidth: float,
    cores: int,
    threads: int,
) -> dict[str, Any]:
    """One job's speed in all ways of running it."""
    print(f"\n{scene.name}")
    config = job(scene, args, scratch, device, threads)
    data = instantiate.build_dataset(config["dataset"]).load()
    write_teacher(config, data, Path(config["teacher"]["checkpoint"]))
    validate.validate_job(config)
    agreed = agree(config, scene)
    workers = min(8, cores) if args.workers is None else args.workers
    is_gpu = device.type == "cuda"
    field = candidates(config, scene, has_gpu=is_gpu, cores=cores, workers=workers)
    if args.only:
        wanted = [*args.only, "plain"]
        field = [each for each in field if any(text in each.name for text in wanted)]
    field = benchmark(field, args.rounds, args.seconds, print)
    bounds = limits_of(field, is_gpu)
    plain = field[0]
    tuned = next((each for each in field if each.kind == "tuned"), plain)
    rows = [row(each, plain, tuned, bounds[place(each, is_gpu)], bandwidth) for each in field]
    print(report.lines(rows))
    return {
        "name": scene.name,
        **asdict(scene),
        "train_images": data.train_size,
        "loader_workers": workers,
        "agreement": agreed,
        "limits": [
            {"processes": p, "threads": t, **what} for (p, t), what in sorted(bounds.items())
        ],
        "contestants": rows,
        "whole_job": None if args.no_whole else whole_job(config, scratch),
    }


def job(
    scene: Scenario, args: argparse.Namespace, scratch: Path, device: torch.device, threads: int
) -> dict[str, Any]:
    """The configuration of a scene's job, with a teacher from a file."""
    # Enough that a DataLoader, which starts its workers anew in every epoch, seldom has to.
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
    places = [f"device={device.type}", f"threads={threads}", f"runs_dir={scratch / 'runs'}"]
    config = compose.compose_standalone([*dataset, *scene.overrides(), *places], None)
    config["teacher"]["checkpoint"] = str(scratch / f"{scene.teacher}.pt")
    return config


def agree(config: Config, scene: Scenario) -> dict[str, Any]:
    """Whether kd-bench and the plain loop learn the same.

    At a low rate: at a high one two runs that differ in the last bit drift apart, whoever runs
    them.
    """
    slow = {**config["recipe"], "lr": 5e-4, "milestones": []}
    mine, other = agreement.losses({**config, "recipe": slow})
    worst = agreement.worst(mine, other)
    is_equal = worst <= agreement.TOLERANCE
    verdict = "equal" if is_equal else "NOT EQUAL"
    print(
        f"losses of the first {len(mine)} steps, ours and plain: {verdict},"
        f" largest relative difference {worst:.1e}"
    )
    return {"is_equal": is_equal, "worst": worst, "ours": mine, "plain": other}


def place(each: Candidate, is_gpu: bool) -> tuple[int, int]:
    """Processes and threads that bound a contestant; on a GPU its jobs share what one can do."""
    return 1 if is_gpu else each.jobs, each.config["threads"]


def limits_of(field: Sequence[Candidate], is_gpu: bool) -> dict[tuple[int, int], dict[str, Any]]:
    """What bounds the contestants, by their places."""
    configs = {place(each, is_gpu): each.config for each in reversed(field)}  # the first of each
    return {at: roofline.measured(config, at[0]) for at, config in configs.items()}


def row(
    each: Candidate, plain: Candidate, tuned: Candidate, bounds: Mapping, bandwidth: float
) -> dict[str, Any]:
    """What is told of a contestant."""
    precision = each.precision or each.config["precision"]
    table = "_with_a_table" if "table" in each.kind else ""
    moved = bounds[f"numbers_moved_per_image{table}"] * (2 if precision == "bf16" else 4)
    rate = sorted(each.rates)[len(each.rates) // 2]
    return {
        "name": each.name,
        "images_per_second": rate,
        "rates": each.rates,
        "ratio_to_plain": asdict(ratio(each, plain)),
        "ratio_to_tuned": asdict(ratio(each, tuned)),
        "of_traffic_limit": rate * moved / bandwidth,
        "of_convolution_limit": rate / bounds[f"convolutions_alone{table}"][precision],
        "start_seconds": max(start["import"] for start in each.starts),
        "prepare_seconds": max(start["prepare"] for start in each.starts),
        "threads": each.config["threads"],
        "jobs": each.jobs,
    }


def whole_job(config: Config, scratch: Path) -> dict[str, float]:
    """Seconds of a short job's process, and how many of them are training."""
    source = config["dataset"]["source"]
    if "train" in source:  # random images, of which there may be fewer
        source = {**source, "train": min(SHORT, source["train"])}
    dataset = {**config["dataset"], "source": source}
    short = {**config, "dataset": dataset, "recipe": {**config["recipe"], "epochs": EPOCHS}}
    frozen = scratch / "whole.jsonl"
    frozen.write_text(json.dumps({"config": short, "changed": {}}) + "\n")
    started = time.perf_counter()
    command = [sys.executable, "-m", "kd_bench.jobs.worker", str(frozen), "0"]
    subprocess.run(command, env=os.environ | process.job_environment(config["threads"]), check=True)
    seconds = time.perf_counter() - started
    folder = Path(config["runs_dir"]) / resolve.folder_name(short)
    result = json.loads((folder / "result.json").read_text())
    trained, images = result["seconds"], result["images"]["train"]
    print(
        f"a whole job of {EPOCHS} epochs from the shell: {seconds:.1f} s, training {trained:.1f} s"
    )
    return {
        "epochs": EPOCHS,
        "images": images,
        "seconds": seconds,
        "training_seconds": trained,
    }


if __name__ == "__main__":
    sys.exit(main())
