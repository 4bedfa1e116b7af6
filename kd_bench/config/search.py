"""The search space of a method: `search:` in its YAML, and the points that a study tries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_bench.config.convert import to_plain
from kd_bench.config.identity import flatten
from kd_bench.config.schema import Config
from kd_bench.utils.errors import require

MOST_KNOBS = 3  # with few trials, more dimensions are left unexplored
KINDS = ("log_uniform", "uniform", "factor")
_RECIPE = "recipe."  # knobs that begin with it are the recipe's, all others the method's
_DIGITS = 3  # significant ones of a value, which labels and commands show


@dataclass(frozen=True)
class Range:
    """The values of one knob."""

    low: float
    high: float
    is_log: bool  # uniform is the logarithm

    def at(self, place: float) -> float:
        """The value at a place in [0, 1]."""
        if self.is_log:
            value = self.low * (self.high / self.low) ** place
        else:
            value = self.low + (self.high - self.low) * place
        return float(f"{value:.{_DIGITS}g}")


Space = dict[str, Range]  # key of the configuration, such as method.losses.st.temperature


def search_space(config: Config) -> Space:
    """The ranges of a method's knobs; empty for a method without `search:`.

    A key of `search:` is a path below the method (losses.st.temperature, weights.st), or one of the
    recipe (recipe.lr). `factor: f` is log-uniform from the configured value / f to f times it.

    Raises:
        UserError: more than three knobs, a key that the job does not have, or a wrong range.
    """
    search, name = config.method.search, config.method.name
    require(
        len(search) <= MOST_KNOBS,
        f"search of {name} has {len(search)} knobs; keep {MOST_KNOBS} at most: {', '.join(search)}",
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
    """All values that a knob may change, by its key in `search:`."""
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
        require(value > 0, f"{where}: factor needs a value above 0, and the job's is {value:g}")
        return Range(value / limits, value * limits, is_log=True)
    is_pair = isinstance(limits, list) and len(limits) == 2 and all(map(_is_number, limits))
    require(is_pair, f"{where}: {kind} must be [low, high], got {limits}")
    low, high = limits
    require(low < high, f"{where}: {kind} must be [low, high], low below high, got {limits}")
    is_log = kind == "log_uniform"
    require(low > 0 or not is_log, f"{where}: {kind} must be above 0, got {limits}")
    return Range(low, high, is_log)


def sobol_points(space: Space, trials: int, study: int) -> list[dict[str, float]]:
    """The values that the trials of a study try: scrambled Sobol points in the ranges of a space.

    More trials of a study begin with those of fewer. All spaces with as many knobs get the same
    places.

    Args:
        space: as from `search_space`, not empty.
        trials: the number of points.
        study: the seed of the scrambling.
    """
    from scipy.stats import qmc  # takes half a second, which `--help` is spared

    sobol = qmc.Sobol(len(space), scramble=True, seed=study)
    # scipy warns unless powers of two are drawn
    places = sobol.random_base2(math.ceil(math.log2(trials)))[:trials]
    return [
        {key: each.at(place) for (key, each), place in zip(space.items(), row, strict=True)}
        for row in places
    ]
