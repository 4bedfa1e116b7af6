"""One job from its plain configuration to its record: teacher, lock, training, result."""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from kd_bench.config.identity import flatten
from kd_bench.config.schema import Speed
from kd_bench.jobs import resolve
from kd_bench.jobs.assemble import assemble_setup
from kd_bench.jobs.instantiate import Config
from kd_bench.jobs.record import _record
from kd_bench.jobs.reporter import Quiet
from kd_bench.jobs.resolve import needs_teacher, teacher_changes
from kd_bench.results.labels import method_label
from kd_bench.results.run_folder import WEIGHTS, read_result, wait_for
from kd_bench.training import autotune, checkpoint, execution
from kd_bench.training.checkpoint import on_cpu
from kd_bench.training.device import choose_device, prepare_torch
from kd_bench.training.loop import Row, train
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.utils.files import atomic_write, ensure_writable_dir, write_json
from kd_bench.utils.lock import Lock, Locked

CHOICE = "choice.json"  # of an unfinished job; the record tells it, too


def label(config: Config, changed: Config) -> str:
    """A job in a few words: digits resnet20-resnet8 st (temperature=8) seed 0."""
    pair = config["model"]["name"]
    if needs_teacher(config):
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
    folder = Path(config["runs_dir"]) / resolve.folder_name(config)
    if record := read_result(folder):
        return record, False
    teacher = resolve.teacher_job(config)
    if teacher is not None:
        _make_teacher(teacher, teacher_changes(changed), show)
    ensure_writable_dir(folder)
    with Lock(folder) as lock:
        if record := read_result(folder):  # finished while we waited for the lock
            return record, False
        try:
            return _train_and_record(config, changed, folder, show, lock), True
        except Locked:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            atomic_write(folder / "error.txt", f"{reason}\n\n{traceback.format_exc()}")
            raise


def _make_teacher(config: Config, changed: Config, show: Quiet) -> None:
    """Train the teacher, or wait for the process that does."""
    folder = Path(config["runs_dir"]) / resolve.folder_name(config)
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
    job = assemble_setup(config, device, show)
    if job.execution.speed is Speed.fast:
        config = {**config, "chosen": config["chosen"] or _choose(job, folder, show)}
        job.execution = execution.resolve_execution(config, job.method, device)
        execution.configure_torch(job.execution)
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


def _choose(job: TrainingSetup, folder: Path, show: Quiet) -> dict[str, Any]:
    """What speed=fast chooses for a job, once: a resumed one keeps to it."""
    file = folder / CHOICE
    if not file.exists():
        chosen = autotune.choose(job)
        show.say(f"speed=fast: {', '.join(f'{k}={v}' for k, v in chosen.items())}")
        write_json(file, chosen)
    return json.loads(file.read_text())


def _finish(job: TrainingSetup, record: dict, folder: Path) -> None:
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
    from kd_bench.jobs.tensorboard import (
        TensorBoardWriter,  # a third of a second that a job without it is spared
    )

    return TensorBoardWriter(folder)


# Objects


# The record
