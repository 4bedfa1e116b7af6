"""Everything that a job trains with, from its configuration."""

from __future__ import annotations

from pathlib import Path

import torch

from kd_bench.config.schema import InitConfig, RecipeConfig, TeacherSource
from kd_bench.data.dataset import Data
from kd_bench.interfaces import Spec, Stages
from kd_bench.jobs import instantiate, resolve
from kd_bench.jobs.instantiate import Config, Network
from kd_bench.jobs.reporter import QUIET, Quiet
from kd_bench.jobs.resolve import needs_teacher, teacher_learns
from kd_bench.results.run_folder import TABLES, WEIGHTS, read_result
from kd_bench.training import execution, teacher_cache
from kd_bench.training.device import device_name
from kd_bench.training.setup import Training
from kd_bench.training.teacher import Teacher, load_weights
from kd_bench.utils.files import file_hash
from kd_bench.utils.seeds import stream


def assemble(config: Config, device: torch.device, show: Quiet = QUIET) -> Training:
    """Everything that a job trains with, each part's random numbers from a stream of its own."""
    data = instantiate.dataset(config["dataset"]).load(device)
    torch.manual_seed(stream(config["seed"], "student"))
    student = instantiate.network(config["model"], data.num_classes)
    torch.manual_seed(stream(config["seed"], "teacher"))  # for one that is trained along
    teacher = _load_teacher(config, data) if needs_teacher(config) else None
    spec = Spec(
        student=student.shapes(data.image_size),
        teacher=teacher and teacher.shapes(data.image_size),
        num_classes=data.num_classes,
        labels=data.train.target,
        epochs=config["recipe"]["epochs"],
        teacher_net=teacher and teacher.net,
    )
    torch.manual_seed(stream(config["seed"], "method"))
    method = instantiate.method(config["method"], spec).to(device)
    how = execution.plan(config, method, device)
    execution.prepare(how)
    for network in filter(None, (student, teacher)):
        network.net.to(device, memory_format=how.layout)
    job = Training(
        student.tapped(method.taps),
        teacher
        and Teacher(
            teacher.tapped(method.taps),
            learns=teacher_learns(config),
            needs_graph=method.needs_graph,
        ),
        method,
        data,
        instantiate.section(RecipeConfig, config["recipe"]),
        instantiate.section(InitConfig, config["method"]["init"]),
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
        resolve.identity(config)["dataset"],
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
    if (job := resolve.teacher_job(config)) is None:
        return Path(config["teacher"]["checkpoint"])
    return Path(config["runs_dir"]) / resolve.folder_name(job) / WEIGHTS


def _load_teacher(config: Config, data: Data) -> Network:
    network = instantiate.network(config["teacher"]["model"], data.num_classes)
    if teacher_learns(config):
        return network
    path = _teacher_weights(config)
    made = None if config["teacher"]["checkpoint"] else read_result(path.parent)
    if made is not None and made["data_fingerprint"] != data.fingerprint:
        raise RuntimeError(f"the teacher in {path.parent} learnt from other images; remove it")
    load_weights(network.net, path, network.name)
    network.net.requires_grad_(False)
    return network
