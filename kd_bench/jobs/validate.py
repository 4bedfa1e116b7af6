"""Checks jobs before any training: builds their networks and losses without weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor

from kd_bench.config.chain import links, teaching_model
from kd_bench.config.compose import shipped_models
from kd_bench.config.convert import to_plain
from kd_bench.config.identity import canonical
from kd_bench.config.schema import (
    Config,
    InitConfig,
    ModelConfig,
    RecipeConfig,
    TeacherConfig,
    TeacherSource,
)
from kd_bench.interfaces import LossContext, StageShapes
from kd_bench.jobs.instantiate import (
    Network,
    build_dataset,
    build_method,
    build_network,
    build_rule,
    describe_dataset,
    ensemble_name,
    is_ours,
    meta_network,
    on_meta,
    why_untrainable,
    with_head,
)
from kd_bench.jobs.job import Job
from kd_bench.methods.common.label_loss import LabelLoss
from kd_bench.methods.common.method import Method
from kd_bench.models.cut import rest_after
from kd_bench.models.weights import read_weights
from kd_bench.training import execution
from kd_bench.training.checks.distributed import check_distributed
from kd_bench.training.checks.recipe import check_recipe
from kd_bench.training.checks.rehearsal import Rehearsal
from kd_bench.training.checks.teacher_accuracy import check_expected
from kd_bench.training.images.mixing import is_mixed
from kd_bench.training.teachers import cache as teacher_cache
from kd_bench.utils.errors import UserError, require


def validate_jobs(jobs: Iterable[Job]) -> None:
    """Run `validate_job` once for jobs that differ only in their seeds."""
    seen = set()
    for job in jobs:
        without_seed = {**to_plain(job.config), "seed": min(job.config.seed, 0)}
        key = json.dumps(without_seed, sort_keys=True)
        if key not in seen:
            seen.add(key)
            validate_job(job)


def validate_job(job: Job) -> None:
    """Build a job's parts without weights, and check that they fit together.

    Raises:
        UserError: they do not; one line with the valid options.
    """
    config, traits = job.config, job.traits
    check_recipe(config.recipe)
    execution.check_execution(config)
    for name in ("threads", "gpus_per_job"):
        number = getattr(config, name)
        require(number >= 1, f"{name} must be 1 or more, got {number}")
    _check_teachers(job)
    _check_pair(job)
    context, teacher, method = _meta_parts(job)
    build_rule(config.method, method, config.recipe)
    _check_steps(config.recipe, len(context.labels))
    _check_last_batches(job, method)
    for stage in method.student_stages:
        context.student[stage]  # raises a UserError if there is no such stage
    for stage in method.stages if context.teacher is not None else ():
        context.teacher_shapes[stage]
    _check_cuts(job, teacher, method)
    if teacher is not None and config.teacher.source is TeacherSource.table:
        teacher_cache.check_cacheable(traits.uncacheable, method.stages)
    _check_streamed(config, method)
    _check_endless_views(config)
    _check_mixed(config, method)
    _check_repeated(config, method)
    _check_distributed(job, method)
    _check_init(config.method.init, config.method.name)
    if teacher is not None and not traits.teacher_learns and not config.method.chain:
        _check_teacher(config.teacher, teacher)
    # The mock networks of a rehearsal have no layers after a stage.
    if not method.cuts and not all(is_ours(type(p).__module__) for p in method.parts.values()):
        _rehearsal(job, context).check()
    if config.method.chain:
        _check_chain(job)


def _meta_parts(job: Job) -> tuple[LossContext, Network | None, Method]:
    """A job's parts without weights: the context of its losses, its teacher, and its method."""
    config = job.config
    data = describe_dataset(config.dataset)
    _, student = meta_network(config.model, data)
    teacher = shapes = None
    if job.traits.needs_teacher:
        teacher, shapes = meta_network(teaching_model(config), data)
        if (number := config.method.ensemble.size) > 1:
            shapes = StageShapes(ensemble_name(number, teacher.name), {}, {})
    with on_meta():
        context = LossContext(
            student,
            shapes,
            data.num_classes,
            torch.empty(data.train_size, dtype=torch.long),
            config.recipe.epochs,
            None if teacher is None else teacher.net,
            label_loss=LabelLoss.of(config.recipe),
        )
        if config.method.head:  # needs its own network, because the one above is shared
            network = build_network(config.model, data)
            _, context = with_head(network, config.method, context, data.image_size)
        return context, teacher, build_method(config.method, context)


def _check_cuts(job: Job, teacher: Network | None, method: Method) -> None:
    """Check that the layers after a stage can run on their own if a loss needs that."""
    if not method.cuts:
        return
    student, _ = meta_network(job.config.model, describe_dataset(job.config.dataset))
    for network in filter(None, (student, teacher)):
        for stage in method.cuts:
            rest_after(network.net, network.stages, stage, (), network.name)


def _rehearsal(job: Job, context: LossContext) -> Rehearsal:
    """The rehearsal of a job's first step; `context` has shapes but no values."""
    config, data = job.config, describe_dataset(job.config.dataset)

    def with_values() -> LossContext:
        values = replace(
            context,
            labels=torch.arange(data.train_size) % data.num_classes,
            mean=torch.zeros(3),
            std=torch.ones(3),
        )
        if context.teacher is None:
            return values
        teacher = build_network(teaching_model(config), data)
        return replace(values, teacher_net=teacher.net)

    return Rehearsal(
        with_values,
        partial(build_method, config.method),
        data.image_size,
        config.recipe,
        job.traits.teacher_learns,
    )


def cache_shape(job: Job) -> tuple[int, int] | None:
    """Rows and columns of a cache of the teacher's outputs, whether the job uses one or not.

    Returns:
        None for a job without a teacher, with streamed, erased or mixed images, or with a method
            that needs more than a cache contains.
    """
    if not job.traits.needs_teacher:
        return None
    context, _, method = _meta_parts(job)
    if context.teacher is None or job.traits.uncacheable or teacher_cache.maps_read(method.stages):
        return None
    if job.config.dataset.streamed or _changed_views(job.config.recipe):
        return None
    dataset = build_dataset(job.config.dataset)
    rows = len(context.labels) * dataset.view_count
    return rows, teacher_cache.row_width(context.teacher, method.stages, context.num_classes)


def _check_steps(recipe: RecipeConfig, images: int) -> None:
    """Check that an epoch has at least one step."""
    require(
        not recipe.drop_last or recipe.batch_size <= images,
        f"recipe '{recipe.name}': with drop_last, batch_size must be at most the {images:,}"
        f" training images, got {recipe.batch_size:,}",
    )


def _check_last_batches(job: Job, method: Method) -> None:
    """Check that networks can be trained on a last batch of one image: batch norm may need more."""
    config, traits, teacher = job.config, job.traits, job.config.teacher
    if _ends_with_one_image(config.recipe, job):
        views = method.extra_views(_black_image(job)).values()  # in the same batch
        images = torch.cat([_black_image(job), *views])
        _check_trainable(config.model, images, "recipe", job)
        if traits.needs_teacher and traits.teacher_learns:
            _check_trainable(teacher.model, images, "recipe", job)
    is_trained = job.teachers and not teacher.checkpoint
    if is_trained and _ends_with_one_image(teacher.recipe, job):
        _check_trainable(teacher.model, _black_image(job), "teacher.recipe", job)


def _ends_with_one_image(recipe: RecipeConfig, job: Job) -> bool:
    images, is_dropped = describe_dataset(job.config.dataset).train_size, recipe.drop_last
    full, last = (  # batch sizes per process
        size // job.config.gpus_per_job for size in (recipe.batch_size, images % recipe.batch_size)
    )
    return full == 1 or (last == 1 and not is_dropped)


def _black_image(job: Job) -> Tensor:
    data = describe_dataset(job.config.dataset)
    return torch.zeros(1, 3, data.height, data.width)


def _check_trainable(model: ModelConfig, images: Tensor, key: str, job: Job) -> None:
    data, recipe = describe_dataset(job.config.dataset), attrgetter(key)(job.config)
    if reason := why_untrainable(model, data, images):
        mend = f"{key}.drop_last=true" if recipe.batch_size > 1 else f"a larger {key}.batch_size"
        raise UserError(
            f"recipe '{recipe.name}': the last batch has one of the {data.train_size:,} training"
            f" images, on which {model.name} cannot be trained ({reason}); use {mend}"
        )


def _check_teachers(job: Job) -> None:
    """Check that the method can have an ensemble or a chain, if one is configured."""
    method, traits = job.config.method, job.traits
    size = method.ensemble.size
    own = {f"method.ensemble.size={size}": size > 1, "method.chain": bool(method.chain)}
    configured = " and ".join(key for key, is_there in own.items() if is_there)
    name = f"method '{method.name}'"
    require(
        not configured or traits.needs_teacher,
        f"{name} has no teacher, so {configured} would have no effect; leave it out",
    )
    require(
        not configured or not traits.teacher_learns,
        f"{name} trains one teacher along with the student; leave out {configured}",
    )
    require(
        size == 1 or bool(method.chain) or not job.config.teacher.checkpoint,
        f"method.ensemble.size={size} needs {size} teachers with different seeds, but"
        " teacher.checkpoint is one file; leave out one of them",
    )


def _check_chain(job: Job) -> None:
    """Check the links of a chain, and their jobs unless they are finished."""
    for name, link in links(job.config.method).items():
        where = f"method.chain.{name}"
        require(not link.method.head, f"{where}: a student with another head cannot be a teacher")
        if link.model is not None:
            _check_size(job, name, link.model)
    for teacher in job.teachers[:1]:  # the others differ only in their seeds
        if not teacher.is_done:
            validate_job(teacher)


def _check_size(job: Job, name: str, model: ModelConfig) -> None:
    """Check that a model in a chain is no smaller than the student, no larger than the teacher."""
    student, teacher = job.config.model, job.config.teacher.model

    def size(of: ModelConfig) -> int:
        network, _ = meta_network(of, describe_dataset(job.config.dataset))
        return sum(parameter.numel() for parameter in network.net.parameters())

    least, most = size(student), size(teacher)
    if not least <= size(model) <= most:
        shipped = sorted(shipped_models(), key=size)
        between = [each.name for each in shipped if least <= size(each) <= most]
        is_assistant = model == job.config.assistant
        mend = f"; assistant=NAME takes {', '.join(between)}" if between and is_assistant else ""
        raise UserError(
            f"method.chain.{name}.model must be between the student and the teacher in size:"
            f" {model.name} has {size(model):,} parameters, {student.name} {least:,} and"
            f" {teacher.name} {most:,}{mend}"
        )


def _check_pair(job: Job) -> None:
    """Check that the teacher is of the kind that the method needs."""
    config, teacher = job.config, job.config.teacher
    name, model = f"method '{config.method.name}'", teaching_model(config)
    require(
        not job.traits.teacher_is_same_model or canonical(config.model.net) == canonical(model.net),
        f"{name} needs a trained copy of the student as its teacher, but the student is"
        f" {config.model.name} and the teacher {model.name};"
        f" add teacher={config.model.name}",
    )
    require(
        not (job.traits.teacher_learns and config.method.head),
        f"{name} trains the teacher along with the student, but its head needs a trained teacher",
    )
    require(
        not (job.traits.teacher_learns and teacher.checkpoint),
        f"{name} trains the teacher from scratch, along with the student;"
        " leave out teacher.checkpoint",
    )


def _check_streamed(config: Config, method: Method) -> None:
    """Check that nothing needs all images in memory if they are streamed."""
    if not config.dataset.streamed:
        return
    require(
        config.teacher.source is not TeacherSource.table,
        "teacher.source=table computes all views of all images, which must be in memory; use"
        " teacher.source=online or dataset.streamed=false",
    )
    require(
        not method.shows_other_images,
        f"method '{config.method.name}' shows the teacher other images than the student, so all"
        " images must be in memory; use dataset.streamed=false",
    )


def _check_endless_views(config: Config) -> None:
    """Check that the teacher's outputs are not cached if the recipe makes unlimited views."""
    changed = _changed_views(config.recipe)
    require(
        not changed or config.teacher.source is not TeacherSource.table,
        "teacher.source=table computes all views of all images, but recipe"
        f" '{config.recipe.name}' changes images ({changed}) into unlimited new ones; use"
        " teacher.source=online",
    )


def _changed_views(recipe: RecipeConfig) -> str:
    """The recipe's values that change the dataset's views of images; "" if there are none."""
    return _values(recipe, "erasing.probability", "mixup", "cutmix")


def _values(recipe: RecipeConfig, *keys: str) -> str:
    """Those of some numbers of a recipe that are not 0."""
    return ", ".join(f"{key}={value:g}" for key in keys if (value := attrgetter(key)(recipe)))


def _check_mixed(config: Config, method: Method) -> None:
    """Check that nothing needs the label of each image if the recipe mixes images."""
    recipe, readers = config.recipe, ", ".join(method.label_readers)
    require(
        not readers or not is_mixed(recipe),
        f"method '{config.method.name}': {readers} needs the label of each image, but recipe"
        f" '{recipe.name}' mixes images ({_values(recipe, 'mixup', 'cutmix')}), so each has two"
        " labels; use recipe.mixup=0 recipe.cutmix=0",
    )


def _check_repeated(config: Config, method: Method) -> None:
    """Check that repeated augmentation makes different views, and suits the losses."""
    recipe, dataset = config.recipe, config.dataset
    repeats = f"recipe.repeated_augmentation={recipe.repeated_augmentation}"
    if recipe.repeated_augmentation == 1:
        return
    require(
        bool(_changed_views(recipe)) or build_dataset(dataset).view_count > 1,
        f"{repeats} repeats images in different views, but dataset '{dataset.name}' has only one"
        f" view of each (pad={dataset.pad}, flip={str(dataset.flip).lower()}); use"
        " recipe.repeated_augmentation=1",
    )
    losses = ", ".join(method.distinct_image_losses)
    require(
        not losses,
        f"method '{config.method.name}': {losses} needs different images in a batch, but {repeats}"
        " repeats them; use recipe.repeated_augmentation=1",
    )


def _check_distributed(job: Job, method: Method) -> None:
    """Check that the processes of a job, and of its teachers, can share their batches."""
    recipes = {"recipe": job.config.recipe}
    if job.teachers:
        recipes["teacher.recipe"] = job.config.teacher.recipe
    check_distributed(job.config, method, {k: each.batch_size for k, each in recipes.items()})


def _check_init(init: InitConfig, method: str) -> None:
    name = f"method '{method}': init"
    require(
        0 <= init.epochs < math.inf,
        f"{name}.epochs must be 0 or more and finite, got {init.epochs}",
    )
    require(0 < init.lr < math.inf, f"{name}.lr must be above 0 and finite, got {init.lr}")
    require(
        (init.epochs > 0) == bool(init.weights),
        f"{name} needs both epochs above 0 and weights, or neither",
    )


def _check_teacher(config: TeacherConfig, teacher: Network) -> None:
    check_expected(config.expected_accuracy, config.checkpoint)
    if path := config.checkpoint:
        read_weights(teacher.net, path, teacher.name, config.checkpoint_key)
        return
    require(
        config.checkpoint_key is None,
        "teacher.checkpoint_key is a key in the file teacher.checkpoint, which is not set",
    )
    check_recipe(config.recipe)
