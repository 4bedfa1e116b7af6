"""Makes a `Job` from its configuration: identity, folder, label, and the job of its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kd_bench.config.identity import EXECUTION_KEYS, check_names, folder_name, job_identity
from kd_bench.config.schema import Config, baseline_method
from kd_bench.interfaces import LogitPlugin, Loss
from kd_bench.jobs.instantiate import loss_classes, plugin_classes
from kd_bench.jobs.job import Job, MethodTraits
from kd_bench.results.labels import method_label
from kd_bench.training.teacher_cache import why_uncacheable


def resolve_job(config: Config, changed: Mapping[str, Any]) -> Job:
    """The job of a configuration, with the job that makes its teacher.

    Args:
        config: of the whole job.
        changed: its values that differ from what its choices alone compose.

    Raises:
        UserError: a name cannot be part of a path, a loss's `_target_` is no loss, or the teacher's
            checkpoint cannot be read.
    """
    check_names(config)
    traits = method_traits(loss_classes(config.method), plugin_classes(config.method))
    teacher = None
    if traits.needs_teacher and not traits.teacher_learns and not config.teacher.checkpoint:
        teacher = _as_teacher(resolve_job(_teacher_config(config), _teacher_changes(changed)))
    identity = identity_of(config, traits)
    return Job(
        config=config,
        changed=dict(changed),
        identity=identity,
        folder=folder_name(identity, config.seed),
        label=_label(config, changed, identity),
        traits=traits,
        teacher=teacher,
    )


def identity_of(config: Config, traits: MethodTraits) -> dict[str, Any]:
    """The identity of a job whose losses have these traits."""
    return job_identity(
        config,
        needs_teacher=traits.needs_teacher,
        teacher_learns=traits.teacher_learns,
        revisions=traits.revisions,
    )


def method_traits(
    classes: Mapping[str, type[Loss]], plugins: Mapping[str, type[LogitPlugin]] | None = None
) -> MethodTraits:
    """What the classes of a method's losses and plug-ins, by name, declare."""
    reasons = {name: why_uncacheable(loss) for name, loss in classes.items()}
    return MethodTraits(
        needs_teacher=any(loss.needs_teacher for loss in classes.values()),
        teacher_learns=any(loss.teacher_learns for loss in classes.values()),
        teacher_is_same_model=any(loss.teacher_is_same_model for loss in classes.values()),
        uncacheable={name: reason for name, reason in reasons.items() if reason is not None},
        revisions={name: loss.revision for name, loss in classes.items()}
        | {f"plugins.{name}": plugin.revision for name, plugin in (plugins or {}).items()},
    )


def _label(config: Config, changed: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """A job in a few words: digits resnet20-resnet8 st (temperature=8) seed 0."""
    pair = config.model.name
    if "teacher" in identity:
        pair = f"{config.teacher.model.name}-{pair}"
    return f"{config.dataset.name} {pair} {method_label(config, changed)} seed {config.seed}"


def _as_teacher(job: Job) -> Job:
    """A job that makes a teacher; its recipe is named, because jobs of several may be listed."""
    label = f"{job.label} (teacher, recipe={job.config.recipe.name})"
    return replace(job, is_requested=False, label=label)


def _teacher_config(config: Config) -> Config:
    """The configuration of the job that makes a job's teacher."""
    teacher = config.teacher
    return replace(
        config,
        model=teacher.model,
        recipe=teacher.recipe,
        seed=teacher.seed,
        method=baseline_method(),
    )


def _teacher_changes(changed: Mapping[str, Any]) -> dict[str, Any]:
    """What was changed in a job's teacher, as changes of the teacher's own job."""
    parts = ("teacher.model.", "teacher.recipe.")
    own = {k.removeprefix("teacher."): v for k, v in changed.items() if k.startswith(parts)}
    return own | {k: v for k, v in changed.items() if k.startswith(("dataset.", *EXECUTION_KEYS))}
