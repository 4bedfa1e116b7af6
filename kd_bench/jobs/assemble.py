"""Assembles everything that a job trains with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from kd_bench.config.schema import TeacherSource
from kd_bench.data.dataset import Data
from kd_bench.interfaces import LossContext, StageShapes
from kd_bench.jobs.instantiate import Network, build_dataset, build_method, build_network
from kd_bench.jobs.job import Job
from kd_bench.methods.common.method import Method
from kd_bench.results.run_folder import TEACHER_CACHES, WEIGHTS, read_record
from kd_bench.training import execution, teacher_cache
from kd_bench.training.device import device_name
from kd_bench.training.execution import Execution
from kd_bench.training.setup import TrainingSetup
from kd_bench.training.teacher import Teacher, load_weights
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import file_hash
from kd_bench.utils.seeds import derive_seed


def assemble_setup(
    job: Job, device: torch.device, message: Callable[[str], None] = lambda text: None
) -> TrainingSetup:
    """Everything that a job trains with; each part draws from a random stream of its own.

    Args:
        job: what to assemble.
        device: where it trains.
        message: prints what takes a while, such as filling a cache.

    Raises:
        UserError: a loss was revised since the job was frozen.
    """
    config, seed = job.config, job.config.seed
    data = build_dataset(config.dataset).load(device)
    torch.manual_seed(derive_seed(seed, "student"))
    student = build_network(config.model, data.num_classes)
    torch.manual_seed(derive_seed(seed, "teacher"))  # for one that is trained along
    teacher = _load_teacher(job, data) if job.traits.needs_teacher else None
    context = LossContext(
        student=student.shapes(data.image_size),
        teacher=None if teacher is None else teacher.shapes(data.image_size),
        num_classes=data.num_classes,
        labels=data.train.target,
        epochs=config.recipe.epochs,
        teacher_net=None if teacher is None else teacher.net,
    )
    torch.manual_seed(derive_seed(seed, "method"))
    method = build_method(config.method, context).to(device)
    _check_revisions(job, method)
    resolved = execution.resolve_execution(config, method, device)
    execution.configure_torch(resolved)
    for network in filter(None, (student, teacher)):
        execution.move(network.net, device, resolved.layout)
    return TrainingSetup(
        job=job.folder,
        student=student.extractor(method.stages),
        teacher=None
        if teacher is None
        else _teacher(job, teacher, context.teacher_shapes, method, data, resolved, message),
        method=method,
        data=data,
        recipe=config.recipe,
        init=config.method.init,
        seed=seed,
        execution=resolved,
    )


def _check_revisions(job: Job, method: Method) -> None:
    """Refuse to record, under the identity that was frozen, what newer code of a loss computes."""
    revisions = method.revisions
    for name, frozen in job.traits.revisions.items():
        now = revisions[name]
        require(
            now == frozen,
            f"loss '{name}' was revised since this job was prepared (revision {frozen}, now {now}),"
            " so its numbers belong to another job; start the sweep again",
        )


def _load_teacher(job: Job, data: Data) -> Network:
    """The teacher, with its weights unless it is trained along."""
    network = build_network(job.config.teacher.model, data.num_classes)
    if job.traits.teacher_learns:
        return network
    if job.teacher is not None:
        record = read_record(job.teacher.path)
        if record is None:
            raise UserError(f"the teacher in {job.teacher.path} has no result yet; train it first")
        if record.data_fingerprint != data.fingerprint:
            raise RuntimeError(
                f"the teacher in {job.teacher.path} was trained on other images; remove that folder"
            )
    load_weights(network.net, _teacher_weights(job), network.name)
    network.net.requires_grad_(False)
    return network


def _teacher_weights(job: Job) -> Path:
    """The file of the teacher's weights: the given one, or that of its own job."""
    if job.teacher is not None:
        return job.teacher.path / WEIGHTS
    return Path(str(job.config.teacher.checkpoint))


def _teacher(
    job: Job,
    network: Network,
    shapes: StageShapes,
    method: Method,
    data: Data,
    resolved: Execution,
    message: Callable[[str], None],
) -> Teacher:
    """The teacher as the job asks for it: computed at every step, or from a cache."""
    teacher = Teacher(
        network.extractor(method.stages),
        learns=job.traits.teacher_learns,
        needs_input_gradients=method.needs_input_gradients,
    )
    if job.config.teacher.source is not TeacherSource.table:
        return teacher
    key = teacher_cache.cache_key(
        job.identity["dataset"],
        data.fingerprint,
        file_hash(_teacher_weights(job)),
        teacher.network.stages,
        [resolved.speed.value, resolved.as_record()],
        [device_name(data.train.target.device), torch.get_num_threads(), torch.__version__],
    )
    folder = Path(job.config.runs_dir) / TEACHER_CACHES / key
    return teacher_cache.load_cached_teacher(
        folder, teacher.with_execution(resolved), shapes, data, message
    )
