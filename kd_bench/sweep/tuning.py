"""Studies: equally many trials per method; the best by validation accuracy is retrained."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kd_bench.config.compose import compose_jobs
from kd_bench.config.search import Space, search_space, sobol_points
from kd_bench.jobs.instantiate import describe_dataset
from kd_bench.jobs.job import Job
from kd_bench.jobs.resolve import resolve_job
from kd_bench.results.run_folder import HISTORY, read_error
from kd_bench.results.study import STUDY, Study, Trial
from kd_bench.sweep.prepare import prepare_jobs
from kd_bench.utils.errors import DamagedError, require
from kd_bench.utils.files import write_json
from kd_bench.utils.text.formatting import pluralize
from kd_bench.utils.text.output import print_lines

TRIALS = ".trials"  # the runs folder of trials, inside that of the studies; tables ignore it
HELD_OUT = 5  # by default, one in five training images is held out
DIVERGED = FloatingPointError.__name__  # prefix of the reason if a loss is not finite

Typed = Sequence[str]  # overrides of one job


@dataclass(frozen=True)
class Plan:
    """A study before its trials have run."""

    typed: Typed
    job: Job  # with the published values
    space: Space
    points: Sequence[Mapping[str, float]]
    validation: int

    @property
    def trials(self) -> list[Typed]:
        """The overrides of each trial."""
        runs = f"{self.job.config.runs_dir}/{TRIALS}".replace("'", "\\'")
        apart = (f"dataset.validation={self.validation}", f"runs_dir='{runs}'")
        return [(*self.typed, *_assignments(values), *apart) for values in self.points]


class Tuning:
    """The studies of some jobs.

    Args:
        jobs: the overrides of each job, including the seed of its study.
        trials: number of trials per study.
        validation: number of images to hold out; None: a fifth of the training images.

    Raises:
        UserError: a method has no `search:` or an invalid one, or a tuned value was typed.
    """

    def __init__(self, jobs: Sequence[Typed], trials: int, validation: int | None):
        self.jobs = jobs
        resolved = [resolve_job(*composed) for composed in compose_jobs(jobs)]
        self.plans = [
            _plan(typed, job, trials, validation) for typed, job in zip(jobs, resolved, strict=True)
        ]

    @property
    def trials(self) -> list[Typed]:
        """The overrides of all trials."""
        return [trial for plan in self.plans for trial in plan.trials]

    def studies(self) -> list[Study] | None:
        """The studies, read from disk; None if a trial neither finished nor diverged."""
        jobs = iter([resolve_job(*composed) for composed in compose_jobs(self.trials)])
        studies = []
        for plan in self.plans:
            tried = [(values, next(jobs)) for values in plan.points]
            if not all(job.is_done or _diverged(job) for _, job in tried):
                return None
            trials = tuple(Trial(dict(values), validation_accuracy(job)) for values, job in tried)
            studies.append(
                Study(plan.job.config.seed, plan.validation, plan.space, trials, plan.job.identity)
            )
        return studies

    def chosen(self, studies: Sequence[Study]) -> list[Typed]:
        """Write the file of each study and return the overrides of a run with its best values."""
        runs = self._tuned([study.chosen.values for study in studies])
        for plan, study, composed in zip(self.plans, studies, compose_jobs(runs), strict=True):
            folder = resolve_job(*composed).path
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / STUDY, study.to_json())
            print_lines(f"{plan.job.label}: {_choice_text(study)}")
        return runs

    def planned(self) -> list[Job]:
        """All jobs that it takes, teachers first, labelled as trials, published and tuned.

        Until the trials have run, the values of the first one stand for those that are chosen.
        """
        studies = self.studies()
        points = [plan.points[0] for plan in self.plans]
        tuned = self._tuned(points if studies is None else [each.chosen.values for each in studies])
        published = [plan.job.label for plan in self.plans]
        names = [
            f"{plan.job.label} (trial {number})"
            for plan in self.plans
            for number, _ in enumerate(plan.points, 1)
        ]
        names += [*published, *(f"{label} (tuned)" for label in published)]
        composed = compose_jobs([*self.trials, *self.jobs, *tuned])
        labels = {
            resolve_job(*each).folder: name for each, name in zip(composed, names, strict=True)
        }
        jobs = prepare_jobs(composed)
        return [replace(job, label=labels.get(job.folder, job.label)) for job in jobs]

    def _tuned(self, values: Sequence[Mapping[str, float]]) -> list[Typed]:
        """The overrides of a run with the given values for each study."""
        return [
            (*plan.typed, *_assignments(chosen))
            for plan, chosen in zip(self.plans, values, strict=True)
        ]


def _plan(typed: Typed, job: Job, trials: int, validation: int | None) -> Plan:
    config, name = job.config, job.config.method.name
    space = search_space(config)
    require(
        bool(space),
        f"{name} has no `search:` in its YAML, so there is nothing to tune; add ranges, such as"
        " search: {weights.ce: {factor: 10}}",
    )
    for key in space:
        require(key not in job.changed, f"{key} is tuned, so its value must not be given")
    images = validation or max(1, describe_dataset(config.dataset).train_size // HELD_OUT)
    return Plan(typed, job, space, sobol_points(space, trials, config.seed), images)


def _assignments(values: Mapping[str, float]) -> list[str]:
    return [f"{key}={value!r}" for key, value in values.items()]


def _diverged(job: Job) -> bool:
    return (read_error(job.path) or "").startswith(DIVERGED)


def validation_accuracy(job: Job) -> float | None:
    """A trial's accuracy in percent of the validation images at its last epoch.

    Read from the history, because a record only has accuracies on test images.

    Raises:
        DamagedError: the history is damaged.
    """
    if not job.is_done:
        return None
    path = job.path / HISTORY
    try:
        with path.open(encoding="utf-8", newline="") as file:
            *_, last = csv.DictReader(file)
        return float(last["validation_accuracy"])
    except (OSError, KeyError, TypeError, ValueError):
        raise DamagedError(f"{path} is damaged; delete its folder to run the trial again") from None


def _choice_text(study: Study) -> str:
    values = ", ".join(each.removeprefix("method.") for each in _assignments(study.chosen.values))
    return (
        f"{values}: best of {pluralize(len(study.trials), 'trial')} with"
        f" {study.chosen.validation_accuracy:.2f} % of"
        f" {pluralize(study.validation, 'validation image')}"
    )
