"""Builds the training setup of a job."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kd_bench.data.balance import imbalance
from kd_bench.interfaces import LossContext
from kd_bench.jobs.instantiate import (
    build_dataset,
    build_method,
    build_network,
    build_rule,
    load_pretrained,
    revisions,
    with_head,
)
from kd_bench.jobs.job import Job
from kd_bench.jobs.teacher import load_network, make_teacher
from kd_bench.methods.common.label_loss import LabelLoss
from kd_bench.training import execution
from kd_bench.training.checks.gradients import check_gradients
from kd_bench.training.distributed.ranks import Ranks
from kd_bench.training.setup import TrainingSetup
from kd_bench.utils.errors import require
from kd_bench.utils.seeds import derive_seed


def assemble_setup(
    job: Job,
    device: torch.device,
    message: Callable[[str], None] = lambda text: None,
    ranks: Ranks | None = None,
) -> TrainingSetup:
    """Build everything that a job trains with; each part has its own random stream.

    Args:
        job: the job.
        device: where it trains.
        message: prints a line before slow steps, such as filling a cache.
        ranks: the processes that train it; None for this process alone.

    Raises:
        UserError: a part of the method was revised after the job was frozen, or the teacher's
            weights do not match its record.
    """
    config, seed, ranks = job.config, job.config.seed, ranks or Ranks()
    _check_revisions(job)
    data = build_dataset(config.dataset).load(device, ranks.size)
    for line in filter(None, (data.overlap, imbalance(data.train.target, data.num_classes))):
        message(f"dataset '{config.dataset.name}': {line}")
    torch.manual_seed(derive_seed(seed, "student"))
    student = build_network(config.model, data)
    load_pretrained(student, config.model)
    torch.manual_seed(derive_seed(seed, "teacher"))  # if it is trained along with the student
    teacher = load_network(job, data) if job.traits.needs_teacher else None
    context = LossContext(
        student=student.shapes(data.image_size),
        teacher=None if teacher is None else teacher.shapes(data.image_size),
        num_classes=data.num_classes,
        labels=data.train.target,
        epochs=config.recipe.epochs,
        label_loss=LabelLoss.of(config.recipe),
        teacher_net=None if teacher is None else teacher.net,
        mean=data.mean,
        std=data.std,
    )
    torch.manual_seed(derive_seed(seed, "head"))
    student, context = with_head(student, config.method, context, data.image_size)
    torch.manual_seed(derive_seed(seed, "method"))
    method = build_method(config.method, context).to(device)
    networks = [network for network in (student, teacher) if network is not None]
    resolved = execution.resolve_execution(
        config, method, device, [network.net for network in networks]
    )
    execution.configure_torch(resolved)
    for network in networks:
        execution.move(network.net, device, resolved.layout)
        is_differentiated = any(each.requires_grad for each in network.net.parameters())
        if device.type == "cpu" and (is_differentiated or method.needs_input_gradients):
            check_gradients(network.net, data.image_size, resolved.layout, network.name)
    return TrainingSetup(
        job=job.folder,
        student=student.extractor(method.student_stages),
        teacher=None
        if teacher is None
        else make_teacher(job, teacher, context.teacher_shapes, method, data, resolved, message),
        method=method,
        data=data,
        recipe=config.recipe,
        init=config.method.init,
        seed=seed,
        execution=resolved,
        rule=build_rule(config.method, method, config.recipe),
        ranks=ranks,
    )


def _check_revisions(job: Job) -> None:
    """Refuse to record results of newer code under the identity that was frozen with older code."""
    for name, now in revisions(job.config.method).items():
        frozen = job.traits.revisions.get(name, 1)  # old sweep files have none for rules and heads
        require(
            now == frozen,
            f"'{name}' was revised since this job was prepared (revision {frozen}, now {now}),"
            " so its numbers belong to another job; start the sweep again",
        )
