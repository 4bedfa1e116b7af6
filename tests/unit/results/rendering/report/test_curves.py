"""Learning curves from histories: all epochs of a short one, evenly spaced ones of a long one."""

from __future__ import annotations

import pytest

from kd_bench.results.rendering.report.curves import Curve, read_curve
from kd_bench.results.run_folder import HISTORY
from kd_bench.utils.errors import DamagedError


def write_history(folder, *accuracies):
    lines = [f"{epoch},main,{value}" for epoch, value in enumerate(accuracies, start=1)]
    (folder / HISTORY).write_text("\n".join(["epoch,stage,test_accuracy", *lines]) + "\n")


def test_a_short_history_is_read_completely(tmp_path):
    write_history(tmp_path, 10.0, 50.5, 60.25)
    assert read_curve(tmp_path) == Curve((1, 2, 3), (10.0, 50.5, 60.25))


def test_a_long_history_is_subsampled_evenly_with_both_ends(tmp_path):
    write_history(tmp_path, *range(101))
    # Five of 101 epochs: 1 and 101, and the quarters between them
    assert read_curve(tmp_path, points=5) == Curve((1, 26, 51, 76, 101), (0, 25, 50, 75, 100))


def test_there_is_no_curve_without_a_history(tmp_path):
    assert read_curve(tmp_path) is None


@pytest.mark.parametrize("content", ["", "epoch,loss\n1,2\n", "epoch,test_accuracy\n1\n", "\0\0"])
def test_a_damaged_history_is_reported(tmp_path, content):
    (tmp_path / HISTORY).write_text(content)
    with pytest.raises(DamagedError, match=r"history\.csv is damaged"):
        read_curve(tmp_path)


@pytest.mark.parametrize("value", ["nan", "101", "-1", "many"])
def test_a_value_that_is_not_a_percentage_is_damage(tmp_path, value):
    write_history(tmp_path, 10.0, value)
    with pytest.raises(DamagedError):
        read_curve(tmp_path)
