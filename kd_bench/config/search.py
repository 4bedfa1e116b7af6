"""The search space of a method (`search:` in its YAML), and the points that a study evaluates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_bench.config.convert import to_plain
from kd_bench.config.identity import flatten
from kd_bench.config.schema import Config
from kd_bench.utils.errors import require

MOST_KNOBS = 3  # few trials cannot explore more dimensions
KINDS = ("log_uniform", "uniform", "factor")
_RECIPE = "recipe."  # prefix of the recipe's knobs; all others are the method's
_DIGITS = 3  # significant digits of a value, which is shown in labels and commands


@dataclass(frozen=True)
class Range:
    """The range of one knob."""

    low: float
    high: float
    is_log: bool  # uniform in the logarithm

    def at(self, place: float) -> float:
        """The value at a position in [0, 1]."""
        if self.is_log:
            value = self.low * (self.high / self.low) ** place
        else:
            value = self.low + (self.high - self.low) * place
        return float(f"{value:.{_DIGITS}g}")


Space = dict[str, Range]  # key of the configuration, such as method.losses.st.temperature


def search_space(config: Config) -> Space:
    """The ranges of a method's knobs; empty for a method without `search:`.

    A key in `search:` is a path in the method (losses.st.temperature, weights.st) or in the recipe
    (recipe.lr). `factor: f` is log-uniform from the configured value / f to the value * f.

    Raises:
        UserError: more than three knobs, an unknown key, or an invalid range.
    """
    search, name = config.method.search, config.method.name
    require(
        len(search) <= MOST_KNOBS,
        f"search of {name} has {len(search)} knobs; keep at most {MOST_KNOBS}: {', '.join(search)}",
    )
    numbers = {path: value for path, value in _values(config).items() if _is_number(value)}
    space = {}
    for knob, given in search.items():
        known = ", ".join(numbers)
        require(knob in numbers, f"search of {name}: no number '{knob}'; choose from {known}")
        key = knob if knob.startswith(_RECIPE) else f"method.{knob}"
        space[key] = _range(given, numbers[knob], f"search of {name}: {knob}")
    return space


def _values(config: Config) -> dict[str, Any]:
    """All values that a knob may change, by their keys in `search:`."""
    method = {name: to_plain(getattr(config.method, name)) for name in ("losses", "weights")}
    recipe = {"lr": config.recipe.lr, "weight_decay": config.recipe.weight_decay}
    return flatten({**method, "recipe": recipe})


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _range(given: Any, value: float, where: str) -> Range:
    is_one = isinstance(given, Mapping) and len(given) == 1 and set(given) <= set(KINDS)
    require(is_one, f"{where} must be one of {', '.join(f'{{{k}: ...}}' for k in KINDS)}")
    ((kind, limits),) = given.items()
    if kind == "factor":
        require(_is_number(limits) and limits > 1, f"{where}: factor must be above 1, got {limits}")
        require(value > 0, f"{where}: factor needs a value above 0, but the job's is {value:g}")
        return Range(value / limits, value * limits, is_log=True)
    is_pair = isinstance(limits, list) and len(limits) == 2 and all(map(_is_number, limits))
    require(is_pair, f"{where}: {kind} must be [low, high], got {limits}")
    low, high = limits
    require(low < high, f"{where}: {kind} must be [low, high] with low below high, got {limits}")
    is_log = kind == "log_uniform"
    require(low > 0 or not is_log, f"{where}: {kind} must be above 0, got {limits}")
    return Range(low, high, is_log)


def sobol_points(space: Space, trials: int, study: int) -> list[dict[str, float]]:
    """The values for the trials of a study: scrambled Sobol points in the ranges of a space.

    A study with more trials begins with the points of the same study with fewer. All spaces with
    the same number of knobs get the same positions.

    Args:
        space: from `search_space`, not empty.
        trials: the number of points.
        study: the seed of the scrambling.
    """
    from scipy.stats import qmc  # imported here because it takes half a second

    sobol = qmc.Sobol(len(space), scramble=True, seed=study)
    # scipy warns unless the number of points is a power of two
    places = sobol.random_base2(math.ceil(math.log2(trials)))[:trials]
    return [
        {key: each.at(place) for (key, each), place in zip(space.items(), row, strict=True)}
        for row in places
    ]
