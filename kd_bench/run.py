"""One job from its plain configuration to its record: teacher, lock, training, result."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import kd_bench
from kd_bench import build
from kd_bench.config.identity import digest, flatten, folder_name
from kd_bench.config.schema import InitConfig, RecipeConfig, Speed, TeacherSource
from kd_bench.data.dataset import Data
from kd_bench.interfaces import Spec, Stages
from kd_bench.results.labels import method_label
from kd_bench.results.run_folder import TABLES, WEIGHTS, read_result, wait_for
from kd_bench.training import autotune, checkpoint, execution, teacher_cache
from kd_bench.training.checkpoint import on_cpu
from kd_bench.training.device import choose_device, device_name, prepare_torch
from kd_bench.training.loop import Progress, Row, percent_equal, predictions, train
from kd_bench.training.setup import Training, phases
from kd_bench.training.teacher import Teacher, load_weights
from kd_bench.utils.files import file_hash, make_folder, write_json, write_whole
from kd_bench.utils.lock import LOCKED_ELSEWHERE, Lock, Locked
from kd_bench.utils.seeds import stream

Config = Mapping[str, Any]
CHOICE = "choice.json"  # of an unfinished job; the record tells it, too


class Quiet:
    """Shows nothing of a job; the interface of whatever shows something."""

    def say(self, text: str) -> None:
        """A line about a job."""

    def begin(self, label: str, epochs: int) -> None:
        """A job's training begins, or goes on."""

    def epoch(self, row: Row, timing: Row) -> None:
        """An epoch is over."""

    def end(self) -> None:
        """A job's training is over."""


QUIET = Quiet()


def label(config: Config, changed: Config) -> str:
    """A job in a few words: digits resnet20-resnet8 st (temperature=8) seed 0."""
    pair = config["model"]["name"]
    if build.needs_teacher(config):
        pair = f"{config['teacher']['model']['name']}-{pair}"
    method = method_label({"config": config, "changed": changed})
    return f"{config['dataset']['name']} {pair} {method} seed {config['seed']}"


def run(config: Config, changed: Config, show: Quiet) -> tuple[dict, bool]:
    """Run a job, and its teacher's before it, unless they are done.

    Args:
        config: the whole job, shaped like `schema.Config`; checked already.
        changed: what differs from the composed choice, kept in the record.
        show: is told what happens.

    Returns:
        The record, and whether this call trained it.

    Raises:
        Locked: another process works at this job.
    """
    folder = Path(config["runs_dir"]) / build.folder_name(config)
    if record := read_result(folder):
        return record, False
    teacher = build.teacher_job(config)
    if teacher is not None:
        _make_teacher(teacher, build.teacher_changes(changed), show)
    make_folder(folder)
    with Lock(folder) as lock:
        if record := read_result(folder):  # finished while we waited for the lock
            return record, False
        try:
            return _train_and_record(config, changed, folder, show, lock), True
        except Locked:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            write_whole(folder / "error.txt", f"{reason}\n\n{traceback.format_exc()}")
            raise


def _make_teacher(config: Config, changed: Config, show: Quiet) -> None:
    """Train the teacher, or wait for the process that does."""
    folder = Path(config["runs_dir"]) / build.folder_name(config)
    while True:
        try:
            run(config, changed, show)
            return
        except Locked as owner:
            show.say(f"waiting for the teacher {label(config, changed)}, which {owner} trains")
            wait_for(folder)


def _train_and_record(
    config: Config, changed: Config, folder: Path, show: Quiet, lock: Lock
) -> dict:
    (folder / "error.txt").unlink(missing_ok=True)
    device = choose_device(config["device"])
    prepare_torch(config["threads"])
    started = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # this process may have trained the teacher
    job = assemble(config, device, show)
    if job.execution.speed is Speed.fast:
        config = {**config, "chosen": config["chosen"] or _choose(job, folder, show)}
        job.execution = execution.plan(config, job.method, device)
        execution.prepare(job.execution)
    show.begin(label(config, changed), sum(phase.epochs for phase in phases(job)))
    events = _events(config, folder)

    def report(row: Row, timing: Row) -> None:
        if lock.lost:
            raise Locked("a process that took over because this one did not answer for long")
        show.epoch(row, timing)
        if events is not None:
            events.add(row | {"images_per_second": timing["images_per_second"]})

    progress = train(job, folder, report)
    show.end()
    record = _record(config, changed, job, progress, folder)
    record["seconds"] = round(sum(r["train"] + r["evaluation"] for r in progress.timing), 3)
    record["seconds_of_warm_up"] = round(progress.warm_up, 3)
    record["seconds_of_process"] = round(time.perf_counter() - started, 3)
    if events is not None:
        numbers = {k: v for k, v in flatten(record["identity"]).items() if v is not None}
        events.close(numbers, record["accuracy"]["last"], len(progress.history))
    _finish(job, record, folder)
    return record


def _choose(job: Training, folder: Path, show: Quiet) -> dict[str, Any]:
    """What speed=fast chooses for a job, once: a resumed one keeps to it."""
    file = folder / CHOICE
    if not file.exists():
        chosen = autotune.choose(job)
        show.say(f"speed=fast: {', '.join(f'{k}={v}' for k, v in chosen.items())}")
        write_json(file, chosen)
    return json.loads(file.read_text())


def _finish(job: Training, record: dict, folder: Path) -> None:
    """Keep the weights, then the result: its presence means that all else is there."""
    # From the CPU, so that they can be loaded where there is no GPU.
    torch.save(on_cpu(job.student.net.state_dict()), folder / f".{WEIGHTS}")
    os.replace(folder / f".{WEIGHTS}", folder / WEIGHTS)
    write_json(folder / "result.json", record)
    checkpoint.remove(folder)
    (folder / CHOICE).unlink(missing_ok=True)


def _events(config: Config, folder: Path):
    if not config["tensorboard"]:
        return None
    from kd_bench.events import Events  # a third of a second that a job without it is spared

    return Events(folder)


# Objects


def assemble(config: Config, device: torch.device, show: Quiet = QUIET) -> Training:
    """Everything that a job trains with, each part's random numbers from a stream of its own."""
    data = build.dataset(config["dataset"]).load(device)
    torch.manual_seed(stream(config["seed"], "student"))
    student = build.network(config["model"], data.num_classes)
    torch.manual_seed(stream(config["seed"], "teacher"))  # for one that is trained along
    teacher = _load_teacher(config, data) if build.needs_teacher(config) else None
    spec = Spec(
        student=student.shapes(data.image_size),
        teacher=teacher and teacher.shapes(data.image_size),
        num_classes=data.num_classes,
        labels=data.train.target,
        epochs=config["recipe"]["epochs"],
        teacher_net=teacher and teacher.net,
    )
    torch.manual_seed(stream(config["seed"], "method"))
    method = build.method(config["method"], spec).to(device)
    how = execution.plan(config, method, device)
    execution.prepare(how)
    for network in filter(None, (student, teacher)):
        network.net.to(device, memory_format=how.layout)
    job = Training(
        student.tapped(method.taps),
        teacher
        and Teacher(
            teacher.tapped(method.taps),
            learns=build.teacher_learns(config),
            needs_graph=method.needs_graph,
        ),
        method,
        data,
        build.section(RecipeConfig, config["recipe"]),
        build.section(InitConfig, config["method"]["init"]),
        config["seed"],
        how,
    )
    if teacher and config["teacher"]["source"] == TeacherSource.table.value:
        job.teacher = _tabled(config, job, spec.teacher, show)
    return job


def _tabled(config: Config, job: Training, shapes: Stages, show: Quiet) -> Teacher:
    """The teacher, looked up in its table of views instead of asked."""
    how, device, teacher = job.execution, job.device, job.teacher
    key = teacher_cache.key(
        build.identity(config)["dataset"],
        job.data.fingerprint,
        file_hash(_teacher_weights(config)),
        teacher.tapped.taps,
        [how.speed.value, how.as_record()],
        [device_name(device), torch.get_num_threads(), torch.__version__],
    )
    folder = Path(config["runs_dir"]) / TABLES / key
    return teacher_cache.load(folder, teacher.executed(how), shapes, job.data, show.say)


def _teacher_weights(config: Config) -> Path:
    """The file with the teacher's weights: the given one, or that of its own job."""
    if (job := build.teacher_job(config)) is None:
        return Path(config["teacher"]["checkpoint"])
    return Path(config["runs_dir"]) / build.folder_name(job) / WEIGHTS


def _load_teacher(config: Config, data: Data) -> build.Network:
    network = build.network(config["teacher"]["model"], data.num_classes)
    if build.teacher_learns(config):
        return network
    path = _teacher_weights(config)
    made = None if config["teacher"]["checkpoint"] else read_result(path.parent)
    if made is not None and made["data_fingerprint"] != data.fingerprint:
        raise RuntimeError(f"the teacher in {path.parent} learnt from other images; remove it")
    load_weights(network.net, path, network.name)
    network.net.requires_grad_(False)
    return network


# The record


def _record(
    config: Config, changed: Config, job: Training, progress: Progress, folder: Path
) -> dict:
    identity = build.identity(config)
    device = job.data.train.target.device
    return {
        "format": 1,
        "status": "done",
        "folder": folder_name(identity, config["seed"]),
        "digest": digest(identity),
        "identity": identity,
        "config": dict(config),
        "changed": dict(changed),
        "accuracy": _accuracy(progress.history),
        "teacher": _teacher_record(config, job),
        "images": {
            "train": job.data.train_size,
            "test": len(job.data.test.target),
            "validation": 0 if job.data.validation is None else len(job.data.validation.target),
        },
        "parameters": _parameters(job),
        "images_per_second": _median([row["images_per_second"] for row in progress.timing]),
        "peak_memory_mb": _peak_memory_mb(device),
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "speed": job.execution.speed.value,
        "execution": job.execution.as_record(),
        "versions": {
            "kd_bench": kd_bench.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        **CODE,
        "data_fingerprint": job.data.fingerprint,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _accuracy(history: list[Row]) -> dict[str, Any]:
    best = max(history, key=lambda row: row["test_accuracy"])
    by_validation = None
    if "validation_accuracy" in best:
        chosen = max(history, key=lambda row: row["validation_accuracy"])
        by_validation = chosen["test_accuracy"]
    return {
        "last": history[-1]["test_accuracy"],
        "best": best["test_accuracy"],
        "best_epoch": best["epoch"],
        "best_val": by_validation,
    }


def _teacher_record(config: Config, job: Training) -> dict | None:
    if job.teacher is None:
        return None
    test = job.data.test
    taught = predictions(job.teacher.tapped, job.data, test)
    said = predictions(job.student, job.data, test)
    teacher_job = build.teacher_job(config)
    return {
        "folder": None if teacher_job is None else build.folder_name(teacher_job),
        "accuracy": percent_equal(taught, test.target),
        "source": config["teacher"]["source"],
        "agreement": percent_equal(taught, said),
        **job.teacher.told,
    }


def _parameters(job: Training) -> dict[str, int]:
    sizes = {
        name: sum(p.numel() for p in module.parameters()) for name, module in job.learners.items()
    }
    student = sizes["student"]
    return {"student": student, "training": sum(sizes.values()), "inference": student}


def _median(values: list[float]) -> float:
    return round(sorted(values)[len(values) // 2], 1)


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / 2**10, 1)


def _commit() -> dict[str, Any]:
    """The commit of the code, and whether the code differs from it; None outside a checkout."""
    root = Path(kd_bench.__file__).resolve().parent.parent

    none = {"commit": None, "dirty": False}
    if not (root / ".git").exists():
        return none
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--"]
    try:
        done = subprocess.run(
            [*command, "kd_bench", "conf"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return none
    told = done.stdout.splitlines()
    head = next(line for line in told if line.startswith("# branch.oid "))
    return {"commit": head.split()[-1], "dirty": not all(line.startswith("#") for line in told)}


CODE = _commit()  # as it was loaded: it may be edited while jobs of a sweep are at work


# One job of a frozen sweep, in a process of its own


def main() -> int:
    """python -m kd_bench.run SWEEP.jsonl NUMBER: run one frozen job; what a sweep starts."""
    return work(Path(sys.argv[1]), int(sys.argv[2]))


def _end_with(parent: int) -> None:
    """Have Linux end this process at the same time as the one that started it."""
    end_with_parent = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(end_with_parent, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be watched
        sys.exit(1)
    # Ray's processes, and so those that they start, do not listen to Ctrl-C.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def work(path: Path, number: int) -> int:
    """Run job `number` of a sweep's file as the environment says; see `run_frozen`.

    KD_BENCH_PARENT is the process that it ends with, KD_BENCH_CORES are the cores that it keeps to.
    """
    if parent := os.environ.get("KD_BENCH_PARENT"):
        _end_with(int(parent))
    # A shell has what it starts in the background ignore it; a sweep's jobs end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if cores := os.environ.get("KD_BENCH_CORES"):
        os.sched_setaffinity(0, map(int, cores.split(",")))
    return run_frozen(path, number)


def run_frozen(path: Path, number: int) -> int:
    """Run job `number` of a sweep's file; its exit code: 0, `LOCKED_ELSEWHERE`, 130 interrupted."""
    sys.path.insert(0, os.getcwd())  # where a user's own losses and models are looked for
    job = json.loads(path.read_text().splitlines()[number])
    try:
        run(job["config"], job["changed"], Quiet())
    except Locked:
        return LOCKED_ELSEWHERE
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
