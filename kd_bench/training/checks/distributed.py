"""Checks that several processes can share a job's batches."""

from __future__ import annotations

from collections.abc import Mapping

from kd_bench.config.schema import Config, TeacherSource
from kd_bench.interfaces import Loss
from kd_bench.methods.common.method import Method
from kd_bench.utils.errors import require


def check_distributed(config: Config, method: Method, batch_sizes: Mapping[str, int]) -> None:
    """Refuse a job whose batches several processes cannot share.

    Args:
        config: the job's configuration.
        method: the job's method.
        batch_sizes: batch sizes of the recipes that train it and its teacher, by recipe name.

    Raises:
        UserError: states the reason.
    """
    processes = config.gpus_per_job
    if processes == 1:
        return
    job = f"gpus_per_job={processes}"
    for recipe, size in batch_sizes.items():
        require(
            size % processes == 0,
            f"{job}: each process gets an equal share of a batch, so {recipe}.batch_size must be a"
            f" multiple of {processes}, got {size}",
        )
    require(
        config.teacher.source is TeacherSource.online,
        f"{job}: teacher.source={config.teacher.source.value} supports only one process; use"
        " teacher.source=online",
    )
    require(
        not config.method.rule,
        f"{job}: rule '{'+'.join(config.method.rule)}' needs gradients of parts of the loss, but"
        " only gradients of the whole loss are averaged over processes; use gpus_per_job=1",
    )
    for name, part in method.parts.items():
        if isinstance(part, Loss) and (reason := why_undistributable(part)):
            require(False, f"{job}: loss '{name}' {reason}; use gpus_per_job=1")


def why_undistributable(loss: Loss) -> str | None:
    """Why processes cannot share the batches of a loss, as the end of a sentence; None if they can.

    Other losses are means over images, or get the outputs for the whole batch.
    """
    if loss.needs_input_gradients:
        return "differentiates with respect to all images of a batch, which no single process has"
    if type(loss).extra_views is not Loss.extra_views:
        return "draws views of all images of a batch, which no single process has"
    return None
