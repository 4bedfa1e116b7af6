"""Metrics by name, also for single corruptions and probed datasets, and invalid names."""

from __future__ import annotations

import pytest

from kd_bench.results.options import METRIC, METRICS, check_metric
from kd_bench.utils.errors import UserError


@pytest.mark.parametrize("name", [*METRICS, "corrupted:fog", "probe:cifar100"])
def test_a_valid_metric_is_found(name):
    check_metric(name)
    assert METRIC[name].heading


@pytest.mark.parametrize("name", ["first", "corrupted:", "probe", "last:fog", ""])
def test_an_unknown_metric_is_refused_with_the_valid_ones(name):
    with pytest.raises(UserError, match=f"'{name}'; choose from last, .*, probe:DATASET"):
        check_metric(name)
    with pytest.raises(KeyError):
        METRIC[name]
