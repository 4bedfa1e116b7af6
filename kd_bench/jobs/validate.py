"""The check before anything trains: a job's parts are built on the meta device."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch

from kd_bench.config.identity import canonical, check_names
from kd_bench.config.schema import RecipeConfig, TeacherSource
from kd_bench.data.augment import view_count
from kd_bench.interfaces import LossContext
from kd_bench.jobs.instantiate import (
    Config,
    Network,
    build_dataset,
    build_method,
    describe_dataset,
    loss_classes,
    meta_network,
    to_dataclass,
)
from kd_bench.jobs.resolve import needs_teacher, teacher_learns
from kd_bench.methods.common.method import Method
from kd_bench.training import execution, teacher_cache
from kd_bench.training.optim import check_recipe
from kd_bench.training.teacher import check_fits, read_state
from kd_bench.utils.errors import UserError, require


def validate_job(config: Config) -> None:
    """Build a job's parts on the meta device, and refuse what does not fit.

    Raises:
        UserError: one line with the right choices.
    """
    check_names(config)
    check_recipe(to_dataclass(RecipeConfig, config["recipe"]))
    execution.check_execution(config)
    require(config["threads"] >= 1, f"threads must be 1 or more, got {config['threads']}")
    for name, seed in (("seed", config["seed"]), ("teacher.seed", config["teacher"]["seed"])):
        require(seed >= 0, f"{name} must be 0 or more, got {seed}")
    if needs_teacher(config):
        _check_pair(config)
    context, teacher, built = _meta_parts(config)
    _check_steps(config["recipe"], len(context.labels))
    for shapes in filter(None, (context.student, context.teacher)):
        for stage in built.stages:
            shapes[stage]  # refused where there is none
    if teacher is not None and config["teacher"]["source"] == TeacherSource.table.value:
        teacher_cache.check_cacheable(loss_classes(config["method"]), built.stages)
    _check_init(config["method"])
    if teacher is not None and not teacher_learns(config):
        _check_teacher(config["teacher"], teacher)


def _meta_parts(config: Config) -> tuple[LossContext, Network | None, Method]:
    """A job's parts without weights: what a method is told, its teacher, and the method itself."""
    data = describe_dataset(config["dataset"])
    _, student = meta_network(config["model"], data)
    teacher = shapes = None
    if needs_teacher(config):
        teacher, shapes = meta_network(config["teacher"]["model"], data)
    with torch.device("meta"):
        context = LossContext(
            student,
            shapes,
            data.num_classes,
            torch.empty(data.train_size, dtype=torch.long),
            config["recipe"]["epochs"],
            teacher and teacher.net,
        )
        return context, teacher, build_method(config["method"], context)


def cache_shape(config: Config) -> tuple[int, int] | None:
    """Rows and columns that the teacher's view table has, or would have.

    Returns:
        None for a job without a teacher, or one that needs more of it than a table holds.
    """
    if not needs_teacher(config):
        return None
    context, _, built = _meta_parts(config)
    try:
        teacher_cache.check_cacheable(loss_classes(config["method"]), built.stages)
    except UserError:
        return None
    part = build_dataset(config["dataset"])
    rows = len(context.labels) * view_count(part.pad, part.flip)
    return rows, teacher_cache.row_width(context.teacher, built.stages, context.num_classes)


def _check_steps(recipe: Config, images: int) -> None:
    """Refuse an epoch without a step."""
    require(
        not recipe["drop_last"] or recipe["batch_size"] <= images,
        f"recipe '{recipe['name']}': with drop_last, batch_size must be at most the {images:,}"
        f" training images, got {recipe['batch_size']:,}",
    )


def _check_pair(config: Config) -> None:
    """Refuse a teacher that is not of the kind that the method is made for."""
    name, student, teacher = (config[k] for k in ("method", "model", "teacher"))
    name = f"method '{name['name']}'"
    if any(loss.teacher_is_same_model for loss in loss_classes(config["method"]).values()):
        require(
            canonical(student["net"]) == canonical(teacher["model"]["net"]),
            f"{name} has a trained copy of the student as teacher, but the student is"
            f" {student['name']} and the teacher {teacher['model']['name']};"
            f" add teacher={student['name']}",
        )
    require(
        not (teacher_learns(config) and teacher["checkpoint"]),
        f"{name} trains the teacher from the start, along with the student;"
        " leave out teacher.checkpoint",
    )


def _check_init(config: Config) -> None:
    init, name = config["init"], f"method '{config['name']}': init"
    require(init["epochs"] >= 0, f"{name}.epochs must be 0 or more, got {init['epochs']}")
    require(init["lr"] > 0, f"{name}.lr must be above 0, got {init['lr']}")
    require(
        (init["epochs"] > 0) == bool(init["weights"]),
        f"{name} needs both epochs above 0 and weights, or neither",
    )


def _check_teacher(config: Config, teacher: Network) -> None:
    if path := config["checkpoint"]:
        check_fits(teacher.net, read_state(path), path, teacher.name)
    else:
        check_recipe(to_dataclass(RecipeConfig, config["recipe"]))


def validate_jobs(configs: Iterable[Config]) -> None:
    """`validate_job` each distinct job once: seeds share everything that is checked."""
    seen = set()
    for config in configs:
        key = json.dumps({**config, "seed": min(config["seed"], 0)}, sort_keys=True)
        if key not in seen:
            seen.add(key)
            validate_job(config)
