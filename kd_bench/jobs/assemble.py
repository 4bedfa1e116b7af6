"""Everything that a job trains with, from its configuration."""

from __future__ import annotations

from pathlib import Path

import torch

from kd_bench.config.schema import InitConfig, RecipeConfig, TeacherSource
from kd_bench.data.dataset import Data
from kd_bench.interfaces import LossContext, StageShapes
from kd_bench.jobs import instantiate, resolve
from kd_bench.jobs.instantiate import Config, Network
from kd_bench.jobs.reporter import QUIET, Quiet
from kd_bench.jobs.resolve import needs_teacher, teacher_learns
from kd_bench.results.run_folder import TABLES, WEIGHTS, read_result
from kd_bench.training import execution, teacher_cache
from kd_bench.training.device import device_name
from kd_bench.training.setup import TrainingSetup
from kd_bench.training.teacher import Teacher, load_weights
from kd_bench.utils.files import file_hash
from kd_bench.utils.seeds import derive_seed


def assemble_setup(config: Config, device: torch.device, show: Quiet = QUIET) -> TrainingSetup:
    """Everything that a job trains with, each part's random numbers from a stream of its own."""
    data = instantiate.build_dataset(config["dataset"]).load(device)
    torch.manual_seed(derive_seed(config["seed"], "student"))
    student = instantiate.build_network(config["model"], data.num_classes)
    torch.manual_seed(derive_seed(config["seed"], "teacher"))  # for one that is trained along
    teacher = _load_teacher(config, data) if needs_teacher(config) else None
    context = LossContext(
        student=student.shapes(data.image_size),
        teacher=teacher and teacher.shapes(data.image_size),
        num_classes=data.num_classes,
        labels=data.train.target,
        epochs=config["recipe"]["epochs"],
        teacher_net=teacher and teacher.net,
    )
    torch.manual_seed(derive_seed(config["seed"], "method"))
    method = instantiate.build_method(config["method"], context).to(device)
    how = execution.resolve_execution(config, method, device)
    execution.configure_torch(how)
    for network in filter(None, (student, teacher)):
        network.net.to(device, memory_format=how.layout)
    job = TrainingSetup(
        student.extractor(method.stages),
        teacher
        and Teacher(
            teacher.extractor(method.stages),
            learns=teacher_learns(config),
            needs_input_gradients=method.needs_input_gradients,
        ),
        method,
        data,
        instantiate.to_dataclass(RecipeConfig, config["recipe"]),
        instantiate.to_dataclass(InitConfig, config["method"]["init"]),
        config["seed"],
        how,
    )
    if teacher and config["teacher"]["source"] == TeacherSource.table.value:
        job.teacher = _tabled(config, job, context.teacher, show)
    return job


def _tabled(config: Config, job: TrainingSetup, shapes: StageShapes, show: Quiet) -> Teacher:
    """The teacher, looked up in its table of views instead of asked."""
    how, device, teacher = job.execution, job.device, job.teacher
    key = teacher_cache.cache_key(
        resolve.identity(config)["dataset"],
        job.data.fingerprint,
        file_hash(_teacher_weights(config)),
        teacher.network.stages,
        [how.speed.value, how.as_record()],
        [device_name(device), torch.get_num_threads(), torch.__version__],
    )
    folder = Path(config["runs_dir"]) / TABLES / key
    return teacher_cache.load_cached_teacher(
        folder, teacher.with_execution(how), shapes, job.data, show.say
    )


def _teacher_weights(config: Config) -> Path:
    """The file with the teacher's weights: the given one, or that of its own job."""
    if (job := resolve.teacher_job(config)) is None:
        return Path(config["teacher"]["checkpoint"])
    return Path(config["runs_dir"]) / resolve.folder_name(job) / WEIGHTS


def _load_teacher(config: Config, data: Data) -> Network:
    network = instantiate.build_network(config["teacher"]["model"], data.num_classes)
    if teacher_learns(config):
        return network
    path = _teacher_weights(config)
    made = None if config["teacher"]["checkpoint"] else read_result(path.parent)
    if made is not None and made["data_fingerprint"] != data.fingerprint:
        raise RuntimeError(f"the teacher in {path.parent} learnt from other images; remove it")
    load_weights(network.net, path, network.name)
    network.net.requires_grad_(False)
    return network
