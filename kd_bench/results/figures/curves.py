"""A figure of learning curves: the mean over seeds and a band from lowest to highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from kd_bench.results.figures.svg import CLEAR, VAGUE, picture
from kd_bench.results.rendering.report.curves import Curve
from kd_bench.utils.text.escape import printable

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 6.0, 2.6  # inches
COLOURS = (CLEAR, VAGUE)


@dataclass(frozen=True)
class Band:
    """Test accuracies in percent of several seeds, at the epochs that they share."""

    epochs: list[int]
    lowest: list[float]
    mean: list[float]
    highest: list[float]


def band(curves: Sequence[Curve]) -> Band:
    """The band of at least one curve."""
    by_seed = [dict(zip(curve.epochs, curve.accuracies, strict=True)) for curve in curves]
    epochs = sorted(set.intersection(*map(set, by_seed)))
    values = [[of_seed[epoch] for of_seed in by_seed] for epoch in epochs]
    lowest, mean, highest = ([of(each) for each in values] for of in (min, fmean, max))
    return Band(epochs, lowest, mean, highest)


def svg(bands: Mapping[str, Band]) -> str:
    """One or two bands by name; the first is the subject of the figure.

    The accuracy axis starts at the lowest value in the second half of training: showing the initial
    climb would leave no room for the differences.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axis = figure.subplots()
    for (name, each), colour in zip(bands.items(), COLOURS, strict=False):
        axis.fill_between(
            each.epochs, each.lowest, each.highest, color=colour, alpha=0.25, linewidth=0
        )
        axis.plot(each.epochs, each.mean, color=colour, linewidth=1.5, label=printable(name))
    _frame(axis, list(bands.values()))
    numbers = [[name, *vars(each).values()] for name, each in bands.items()]
    return picture(figure, "curves", numbers)


def _frame(axis: Axes, bands: Sequence[Band]) -> None:
    from matplotlib.ticker import MaxNLocator

    late = [value for each in bands for value in each.lowest[len(each.lowest) // 2 :]]
    best = max(max(each.highest) for each in bands)
    margin = 0.05 * (best - min(late)) or 0.5
    axis.set_ylim(min(late) - margin, best + margin)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("epoch")
    axis.set_ylabel("test accuracy in %")
    axis.grid(axis="y", linewidth=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    for text in axis.legend(fontsize=8, frameon=False, loc="lower right").get_texts():
        text.set_parse_math(False)
