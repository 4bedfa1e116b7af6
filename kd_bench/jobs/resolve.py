"""Makes a `Job` from its configuration: identity, folder, label, and its teachers' jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kd_bench.config.chain import chain_text, links, teacher_configs
from kd_bench.config.identity import (
    EXECUTION_KEYS,
    check_names,
    folder_name,
    job_identity,
    short_name,
)
from kd_bench.config.schema import Config, MethodConfig, Side
from kd_bench.jobs.instantiate import loss_classes, revisions
from kd_bench.jobs.job import Job, MethodTraits
from kd_bench.results.labels import method_label
from kd_bench.training.teachers.cache import why_uncacheable


def resolve_job(config: Config, changed: Mapping[str, Any]) -> Job:
    """The job of a configuration, with its teachers' jobs, and their teachers' jobs in turn.

    Args:
        config: of the whole job.
        changed: values that differ from those of the selected config groups.

    Raises:
        UserError: a name cannot be part of a path, a loss's `_target_` is not a loss, the teacher's
            checkpoint cannot be read, or a link of a chain or a number is invalid.
    """
    check_names(config)
    traits = method_traits(config.method)
    return _job(config, changed, traits)


def variant(job: Job, **values: Any) -> Job:
    """A copy of a job with other values in its configuration, but the same method."""
    return _job(replace(job.config, **values), job.changed, job.traits)


def _job(config: Config, changed: Mapping[str, Any], traits: MethodTraits) -> Job:
    teachers = _teachers(config, changed, traits)
    identity = job_identity(
        config,
        needs_teacher=traits.needs_teacher,
        teacher_learns=traits.teacher_learns,
        revisions=traits.revisions,
        taught_by=[short_name(each.identity, each.config.seed) for each in teachers]
        if config.method.chain or len(teachers) > 1
        else [],
    )
    return Job(
        config=config,
        changed=dict(changed),
        identity=identity,
        folder=folder_name(identity, config.seed),
        label=_label(config, changed, identity),
        traits=traits,
        teachers=teachers,
    )


def method_traits(config: MethodConfig) -> MethodTraits:
    """Properties that the classes of a method's parts declare."""
    classes = loss_classes(config)
    reasons = {name: why_uncacheable(loss) for name, loss in classes.items()}
    return MethodTraits(
        needs_teacher=any(loss.needs_teacher for loss in classes.values()),
        teacher_learns=any(loss.teacher_learns for loss in classes.values()),
        teacher_is_same_model=any(loss.teacher_is_same_model for loss in classes.values()),
        uncacheable={name: reason for name, reason in reasons.items() if reason is not None},
        revisions=revisions(config),
    )


def _label(config: Config, changed: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """A short description of a job: digits resnet20-resnet8 st (temperature=8) seed 0."""
    pair = config.model.name
    if "teacher" in identity:
        pair = f"{config.teacher.model.name}-{pair}"
    return f"{config.dataset.name} {pair} {method_label(config, changed)} seed {config.seed}"


def _as_teacher(job: Job) -> Job:
    """A teacher's job, labelled with its recipe because teachers may differ in it alone."""
    label = f"{job.label} (teacher, recipe={job.config.recipe.name})"
    return replace(job, is_requested=False, label=label)


def _teachers(config: Config, changed: Mapping[str, Any], traits: MethodTraits) -> tuple[Job, ...]:
    """The jobs of a job's teachers; none if the teacher is a file or is trained along with it."""
    is_file = config.teacher.checkpoint and not config.method.chain
    if is_file or traits.teacher_learns or not traits.needs_teacher:
        return ()
    configs = teacher_configs(config)
    if config.method.chain:
        own = _link_changes(config, configs[0], changed)
    else:
        own = _teacher_changes(changed)
    return tuple(_as_teacher(resolve_job(each, own)) for each in configs)


def _teacher_changes(changed: Mapping[str, Any]) -> dict[str, Any]:
    """Changed values of a job's teacher, as changes of the teacher's own job."""
    return _of_execution(changed) | _moved(changed, "teacher.model.", "teacher.recipe.")


def _link_changes(config: Config, made: Config, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Changed values of the last link of a chain, as changes of its own job, with config `made`."""
    name, link = list(links(config.method).items())[-1]
    here = f"method.chain.{name}."
    own = _of_execution(changed) | _kept(changed, "teacher.")
    own |= _moved(changed, f"{here}model.", f"{here}method.", above=here)
    if link.recipe is Side.teacher:
        own |= _moved(changed, "teacher.recipe.")
    else:
        own |= _kept(changed, "recipe.")
    if link.model is None:
        own |= _kept(changed, "model.")
    if made.method.chain:  # not part of its method's YAML
        own["method.chain"] = chain_text(made.method)
    return own


def _of_execution(changed: Mapping[str, Any]) -> dict[str, Any]:
    return _kept(changed, "dataset.", *EXECUTION_KEYS)


def _kept(changed: Mapping[str, Any], *sections: str) -> dict[str, Any]:
    return {key: value for key, value in changed.items() if key.startswith(sections)}


def _moved(changed: Mapping[str, Any], *sections: str, above: str = "teacher.") -> dict[str, Any]:
    return {key.removeprefix(above): value for key, value in _kept(changed, *sections).items()}
