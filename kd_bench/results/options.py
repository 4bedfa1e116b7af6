"""The options of a table; does not import pandas, so that `--help` is fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kd_bench.results.record import Record
from kd_bench.utils.errors import require

EVALUATE = "`kd-bench evaluate RUN` adds it"
CORRUPT = "`kd-bench evaluate RUN --corruptions` adds it"
NEEDS_VALIDATION = "it needs validation images: dataset.validation=N"
SINCE = "only jobs of this version of kd-bench record it"


@dataclass(frozen=True)
class Metric:
    """A number of a run that a table can show."""

    heading: str  # of its columns
    text: str  # description at the beginning of a caption
    short: str  # the same, for a terminal's short caption
    value: Callable[[Record], float | None]  # None for a run that does not have it
    why_none: str = EVALUATE  # how to add it to a run
    better: int = 1  # 1: higher is better, -1: lower is better; 0: a cost, for which none is bold
    unit: str = "points"  # of a difference
    digits: int | None = None  # decimal places; None: depends on the number of test images
    is_accuracy: bool = False  # the teacher's accuracy is shown above it
    needs_teacher: bool = False


def _accuracy(heading: str, epoch: str, short: str, name: str, why_none: str = "") -> Metric:
    return Metric(
        heading,
        f"Accuracy in percent of all test images {epoch}",
        f"Accuracy in % ({short})",
        lambda record: getattr(record.accuracy, name),
        why_none,
        is_accuracy=True,
    )


def _of_logits(name: str) -> Callable[[Record], float | None]:
    return lambda record: None if record.metrics is None else getattr(record.metrics, name)


def _cost(
    heading: str, text: str, value: Callable[[Record], float | None], unit: str, digits: int = 0
) -> Metric:
    return Metric(heading, text, text, value, SINCE, better=0, unit=unit, digits=digits)


def _parameters(where: str) -> Callable[[Record], float]:
    return lambda record: record.parameters[where] - record.parameters["student"]


def _teacher_images(record: Record) -> float | None:
    return record.teacher_images if record.teacher else 0


def _corrupted(name: str) -> Metric:
    """Accuracy with one corruption."""
    return Metric(
        f"corrupted, {name}",
        f"Accuracy in percent of all test images with {name}, at the last epoch, mean over five"
        " strengths",
        f"Accuracy in % with {name}",
        lambda record: None if record.corrupted is None else record.corrupted.mean_of(name),
        CORRUPT,
    )


def _probe(dataset: str) -> Metric:
    """Accuracy of a linear probe on a dataset."""

    def value(record: Record) -> float | None:
        return record.probes[dataset].accuracy if dataset in record.probes else None

    return Metric(
        f"probe, {dataset}",
        f"Accuracy in percent of all test images of {dataset} of a linear classifier of the"
        " student's features",
        f"Accuracy in % of a linear probe on {dataset}",
        value,
        f"`kd-bench evaluate RUN --probe dataset={dataset}` adds it",
    )


class _Metrics(dict[str, Metric]):
    """Metrics by name, and those of one corruption or dataset: corrupted:fog, probe:cifar100."""

    def __missing__(self, name: str) -> Metric:
        kind, _, which = name.partition(":")
        if kind not in OF_ONE or not which:
            raise KeyError(name)
        return OF_ONE[kind](which)


OF_ONE = {"corrupted": _corrupted, "probe": _probe}
_NAMED = {
    "last": _accuracy("last", "at the last epoch", "last epoch", "last"),
    "best": _accuracy(
        "best (test-selected)",
        "at the best test epoch (test-selected, so biased upwards)",
        "best test epoch",
        "best",
    ),
    "best-val": _accuracy(
        "best-val",
        "at the best epoch on the validation images",
        "best validation epoch",
        "best_val",
        f"{NEEDS_VALIDATION}; or choose last",
    ),
    "top5": Metric(
        "top-5",
        "Percent of all test images at the last epoch whose class is among the five most probable",
        "Top-5 test accuracy in %",
        _of_logits("top5"),
        f"{EVALUATE} if there are more than five classes",
    ),
    "nll": Metric(
        "NLL",
        "Negative log-likelihood in nats, mean over all test images at the last epoch",
        "Negative log-likelihood in nats",
        _of_logits("nll"),
        better=-1,
        unit="nats",
        digits=3,
    ),
    "ece": Metric(
        "ECE",
        "Expected calibration error in percent (15 bins) of all test images at the last epoch",
        "Expected calibration error in %",
        _of_logits("ece"),
        better=-1,
    ),
    "ece-scaled": Metric(
        "ECE, scaled",
        "Expected calibration error in percent (15 bins) of all test images at the last epoch, with"
        " the temperature that fits the validation images",
        "Expected calibration error in %, temperature-scaled",
        _of_logits("ece_scaled"),
        f"{NEEDS_VALIDATION}; then {EVALUATE}",
        better=-1,
    ),
    "agreement": Metric(
        "agreement",
        "Percent of all test images for which student and teacher predict the same class, at the"
        " last epoch",
        "Agreement with the teacher in %",
        lambda record: None if record.teacher is None else record.teacher.agreement,
        needs_teacher=True,
    ),
    "teacher-errors": Metric(
        "teacher's errors",
        "Percent of the test images misclassified by the teacher for which the student predicts the"
        " same wrong class, at the last epoch",
        "Agreement with the teacher in % where it errs",
        _of_logits("teacher_errors"),
        needs_teacher=True,
    ),
    "kl": Metric(
        "KL",
        "KL(teacher || student) in nats, mean over all test images at the last epoch",
        "KL(teacher || student) in nats",
        _of_logits("kl"),
        needs_teacher=True,
        better=-1,
        unit="nats",
        digits=3,
    ),
    "corrupted": Metric(
        "corrupted",
        "Accuracy in percent of all test images at the last epoch, mean over the corruptions of"
        " CIFAR-C without frost, at five strengths",
        "Accuracy in % on corrupted test images",
        lambda record: None if record.corrupted is None else record.corrupted.mean,
        CORRUPT,
    ),
    "seconds": _cost("seconds", "Seconds of training", lambda r: r.seconds, "s", digits=1),
    "teacher-images": _cost(
        "teacher's images",
        "Images passed through the teacher in training (cache: those that fill it)",
        _teacher_images,
        "images",
    ),
    "training-parameters": _cost(
        "parameters in training",
        "Trained parameters beyond the student's model",
        _parameters("training"),
        "parameters",
    ),
    "inference-parameters": _cost(
        "parameters at inference",
        "Parameters of the student at inference beyond its model",
        _parameters("inference"),
        "parameters",
    ),
    "memory": _cost("memory", "Peak memory in MB", lambda record: record.peak_memory_mb, "MB"),
}
METRIC = _Metrics(_NAMED)
METRICS = tuple(METRIC)
COSTS = tuple(name for name, metric in METRIC.items() if not metric.better)
METRICS_TEXT = f"{', '.join(METRICS)}, corrupted:NAME, probe:DATASET"
MEASURED = ".json"  # suffix of a file of tools/method_cost.py
COSTS_TEXT = f"{', '.join(COSTS)}, or a file of tools/method_cost.py (FILE{MEASURED})"


def check_metric(name: str) -> None:
    """Refuse an unknown metric.

    Raises:
        UserError: the metric is unknown; the message lists all metrics.
    """
    kind, _, which = name.partition(":")
    is_known = name in METRICS or (kind in OF_ONE and which != "")
    require(is_known, f"unknown metric '{name}'; choose from {METRICS_TEXT}")


def check_cost(name: str) -> None:
    """Refuse an unknown cost.

    Raises:
        UserError: the cost is unknown; the message lists all costs.
    """
    is_known = name in COSTS or name.endswith(MEASURED)
    require(is_known, f"unknown cost '{name}'; choose from {COSTS_TEXT}")


FILTERS = ("dataset", "pair", "method", "recipe", "student")
FORMAT_NAMES = ("terminal", "markdown", "latex", "csv")


@dataclass(frozen=True)
class TableOptions:
    """A table as requested on the command line."""

    source: str  # folder with records
    choice: dict[str, Sequence[str]] = field(default_factory=dict)  # filter -> names
    metric: str = METRICS[0]
    note: str = ""  # a sentence for the caption
    format: str | None = None  # of the printed table
    csv: Path | None = None  # file for the cells
    figure: Path | None = None  # SVG file for the differences from the baseline
    plot: Path | None = None  # SVG file for accuracy against swept values
    profile: Path | None = None  # SVG file for performance profiles over pairs
    cost_figure: Path | None = None  # SVG file for accuracy against a cost
    cost: str = COSTS[0]  # or a file of tools/method_cost.py
    summary: bool = False  # a second table, of the methods over all pairs
    published: bool = False  # add published values
    untuned: bool = False  # without rows whose values were chosen by a study
