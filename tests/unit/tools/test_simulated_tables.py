"""tools/simulated_tables.py simulates results and makes kd-bench's tables of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import simulated_tables as tool

from kd_bench.utils.errors import UserError


@pytest.mark.slow
def test_simulated_results_have_the_given_methods_seeds_deviation_and_effect():
    tables = list(tool.simulated(tool.World(methods=2, seeds=4, effect=5.0), tables=10))
    cells = [table.cells for table in tables]
    assert {(row, cell.n) for each in cells for (row, _), cell in each.items()} == {
        ("baseline", 4),
        ("method00", 4),
        ("method01", 4),
    }
    deltas = {
        row: [cell.delta.mean for each in cells for (name, _), cell in each.items() if name == row]
        for row in ("method00", "method01")
    }
    # the SD of a mean difference is SD * sqrt(2 / 4) = 0.22, that of the mean of 10 is 0.07
    assert np.mean(deltas["method00"]) == pytest.approx(5.0, abs=0.3)
    assert np.mean(deltas["method01"]) == pytest.approx(0.0, abs=0.3)
    assert np.mean([table.columns[0].deviation.sd for table in tables]) == pytest.approx(
        tool.SD, rel=0.2
    )


def test_the_marks_of_tables_are_counted():
    found = tool.outcome(tool.World(methods=2, seeds=3, effect=50.0), tables=3)
    assert (found.arrow, found.bold, found.found) == (1.0, 1.0, 1.0)


def test_a_stored_simulation_is_shown_as_markdown(tmp_path, capsys):
    world = {"methods": 34, "seeds": 3, "effect": 0.0}
    outcome = {"world": world, "tables": 1000, "arrow": 0.031, "bold": 0.02, "found": 0.0}
    path = tmp_path / "simulated.json"
    path.write_text(json.dumps([outcome]))
    assert tool.main(["--show", str(path)]) == 0
    assert "| 34 methods, no effect, 3 seeds | 3.1% | 2.0% |  |" in capsys.readouterr().out
    with pytest.raises(UserError, match="there is no file"):
        tool.main(["--show", str(tmp_path / "none.json")])
