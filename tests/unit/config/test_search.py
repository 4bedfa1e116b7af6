"""Search spaces: ranges computed by hand, scipy's Sobol points, and one-line errors."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from helpers.jobs import composed
from helpers.shipped import choices, load
from scipy.stats import qmc

from kd_bench.config.search import Range, search_space, sobol_points
from kd_bench.utils.errors import UserError


def space_of(search, *overrides):
    """The search space of st at lr 0.1 with another `search:`."""
    config = composed("method=st", "recipe.lr=0.1", *overrides)[0]
    return search_space(replace(config, method=replace(config.method, search=search)))


def test_keys_are_below_method_unless_they_begin_with_recipe():
    found = space_of(
        {
            "losses.st.temperature": {"log_uniform": [1, 16]},
            "weights.ce": {"uniform": [0, 2]},
            "recipe.lr": {"factor": 4},
        }
    )
    assert found == {
        "method.losses.st.temperature": Range(1, 16, is_log=True),
        "method.weights.ce": Range(0, 2, is_log=False),
        "recipe.lr": Range(0.025, 0.4, is_log=True),
    }


def test_a_factor_is_around_the_weight_that_the_dataset_sets():
    on_digits = search_space(composed("method=at", "dataset=digits")[0])
    elsewhere = search_space(composed("method=at", "dataset=cifar10")[0])
    assert on_digits == {"method.weights.at": Range(3, 300, is_log=True)}
    assert elsewhere == {"method.weights.at": Range(100, 10_000, is_log=True)}


def test_values_of_a_range_are_rounded_to_three_digits():
    logarithmic, uniform = Range(1, 16, is_log=True), Range(1, 16, is_log=False)
    assert [logarithmic.at(place) for place in (0, 0.25, 0.5, 1)] == [1, 2, 4, 16]
    assert [uniform.at(place) for place in (0, 0.5, 1)] == [1, 8.5, 16]
    assert Range(0, 1, is_log=False).at(0.123456) == 0.123


@pytest.mark.parametrize("study", [0, 1])
def test_points_are_those_of_scipys_scrambled_sobol_sequence(study):
    space = {"a": Range(0, 1, is_log=False), "b": Range(1, 100, is_log=True)}
    places = qmc.Sobol(2, scramble=True, seed=study).random(8)[:5]
    points = sobol_points(space, 5, study)
    assert [point["a"] for point in points] == pytest.approx(places[:, 0], abs=5e-4)
    assert np.log10([point["b"] for point in points]) / 2 == pytest.approx(places[:, 1], abs=2e-3)


def test_more_trials_extend_fewer_trials_and_studies_differ():
    space = {"a": Range(0, 1, is_log=False)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scipy warns if the number is not a power of two
        by_trials = [sobol_points(space, trials, 0) for trials in (1, 3, 5, 8)]
    assert [len(points) for points in by_trials] == [1, 3, 5, 8]
    assert all(points == by_trials[-1][: len(points)] for points in by_trials)
    assert sobol_points(space, 5, 1) != by_trials[2]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"losses.st.temperature": {"uniform": [4, 1]}}, r"with low below high, got \[4, 1\]"),
        ({"losses.st.temperature": {"log_uniform": [0, 1]}}, "log_uniform must be above 0"),
        ({"losses.st.temperature": {"uniform": [1]}}, r"must be \[low, high\], got \[1\]"),
        ({"losses.st.temperature": {"factor": 1}}, "factor must be above 1, got 1"),
        ({"losses.st.temperature": [1, 4]}, r"one of \{log_uniform: ...\}, \{uniform"),
        ({"losses.st.temprature": {"factor": 2}}, "choose from losses.st.temperature, weights.ce"),
        ({"recipe.weight_decay": {"factor": 2}}, "factor needs a value above 0"),
        ({key: {"factor": 2} for key in "abcd"}, "has 4 knobs; keep at most 3: a, b, c, d"),
    ],
)
def test_an_invalid_search_space_is_refused(search, message):
    with pytest.raises(UserError, match=message) as refused:
        space_of(search, "recipe.weight_decay=0")
    assert "search of st" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", choices("method"))
def test_every_shipped_range_contains_the_published_value(name):
    config = replace(composed("method=baseline")[0], method=load("method", name))
    for key, each in search_space(config).items():
        value = config
        for part in key.split("."):
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        assert each.low < value < each.high
