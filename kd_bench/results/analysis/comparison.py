"""Compares the rows of a column with the baseline, with the controls, and with the best.

Each of the three is a family of tests with Holm's correction: at most 5 % of columns contain a
false claim of a family. The rows of a column share one pooled deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.groups import Group, Kind
from kd_bench.results.analysis.statistics import Pooled, holm, p_values


@dataclass(frozen=True)
class Mean:
    """A mean accuracy in percent, or a mean difference in points, of `n` runs."""

    value: float
    n: int


@dataclass(frozen=True)
class Verdicts:
    """The results of the tests in a column."""

    effects: dict[str, int]  # of rows significantly above (1) or below (-1) the baseline
    best: set[str]  # the best of each group, and rows not significantly different from it
    unproven: set[str]  # methods that are not significantly above the best control


def compare(
    means: Mapping[str, Mean],
    deltas: Mapping[str, Mean],
    groups: Mapping[str, Group],
    deviation: Pooled | None,
) -> Verdicts:
    """The verdicts on a column.

    Args:
        means: by row, for rows with a finished run.
        deltas: by row, from the baseline; `n` is the number of shared seeds.
        groups: by row.
        deviation: pooled over the column; without one (None), there are no verdicts.
    """
    if deviation is None:
        return Verdicts({}, set(), set())
    effects = _effects(deltas, deviation)
    best: set[str] = set()
    for group in set(groups.values()):
        if group.kind is not Kind.CONTROL:
            alike = {row: mean for row, mean in means.items() if groups[row] == group}
            best |= _best(alike, effects, deviation, has_baseline=BASELINE in means)
    return Verdicts(effects, best, _unproven(means, groups, deviation))


def _effects(deltas: Mapping[str, Mean], deviation: Pooled) -> dict[str, int]:
    """The rows that differ from the baseline: 1 above it, -1 below."""
    values, n = _arrays(deltas)
    clear = holm(p_values(deviation, values, n, n))
    return {
        row: 1 if delta.value > 0 else -1
        for (row, delta), is_clear in zip(deltas.items(), clear, strict=True)
        if is_clear
    }


def _arrays(means: Mapping[str, Mean]) -> tuple[np.ndarray, np.ndarray]:
    """The values of means and their numbers of runs."""
    return np.array([m.value for m in means.values()]), np.array([m.n for m in means.values()])


def _best(
    means: Mapping[str, Mean], effects: Mapping[str, int], deviation: Pooled, has_baseline: bool
) -> set[str]:
    """The best of a group and all rows that do not differ from it significantly.

    Empty if the best does not differ from the baseline. All pairs are tested, since the best row
    was itself selected with these seeds.
    """
    if len(means) < 2:
        return set()
    top = max(means, key=lambda row: means[row].value)
    rivals = {row: mean for row, mean in means.items() if row != BASELINE}
    best = _as_good_as(top, rivals, deviation) if top in rivals else set()
    is_significant = effects.get(top) == 1 if has_baseline else len(best) < len(means)
    return best if is_significant else set()


def _as_good_as(top: str, means: Mapping[str, Mean], deviation: Pooled) -> set[str]:
    """`top` and the rows that do not differ from it, with all pairs of rows tested."""
    rows = list(means)
    values, n = _arrays(means)
    first, second = np.triu_indices(len(rows), k=1)
    differ = holm(p_values(deviation, values[first] - values[second], n[first], n[second]))
    place = rows.index(top)
    worse = {*first[differ & (second == place)], *second[differ & (first == place)]}
    return {row for k, row in enumerate(rows) if k not in worse}


def _unproven(
    means: Mapping[str, Mean], groups: Mapping[str, Group], deviation: Pooled
) -> set[str]:
    """The methods that are not significantly above the best control of their column."""
    controls = [mean for row, mean in means.items() if groups[row].kind is Kind.CONTROL]
    if not controls:
        return set()
    control = max(controls, key=lambda mean: mean.value)
    methods = {
        row: mean
        for row, mean in means.items()
        if groups[row].kind is not Kind.CONTROL and row != BASELINE
    }
    values, n = _arrays(methods)
    differ = holm(p_values(deviation, values - control.value, n, np.full_like(n, control.n)))
    above = differ & (values > control.value)
    return {row for row, is_above in zip(methods, above, strict=True) if not is_above}
