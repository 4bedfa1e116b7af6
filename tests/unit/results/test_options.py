"""Metrics by name: those of one corruption or dataset, and what is none."""

from __future__ import annotations

import pytest

from kd_bench.results.options import METRIC, METRICS, check_metric
from kd_bench.utils.errors import UserError


@pytest.mark.parametrize("name", [*METRICS, "corrupted:fog", "probe:cifar100"])
def test_a_metric_that_passes_is_found(name):
    check_metric(name)
    assert METRIC[name].heading


@pytest.mark.parametrize("name", ["first", "corrupted:", "probe", "last:fog", ""])
def test_what_is_no_metric_lists_those_that_are(name):
    with pytest.raises(UserError, match=f"'{name}'; choose from last, .*, probe:DATASET"):
        check_metric(name)
    with pytest.raises(KeyError):
        METRIC[name]
