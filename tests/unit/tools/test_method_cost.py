"""tools/method_cost.py measures and shows the cost of a step of each method."""

import json

import method_cost
import pytest


def measured(**ratios):
    methods = {
        name: {"images_per_second": 100.0, "step_to_st": {"median": r, "low": r / 2, "high": r * 2}}
        for name, r in ratios.items()
    }
    about = {"pair": "a-b", "batch": 64, "rounds": 3, "seconds": 1.0, "machine": "M", "torch": "2"}
    return about | {"methods": methods}


def test_the_cheapest_method_comes_first(tmp_path, capsys):
    (tmp_path / "costs.json").write_text(json.dumps(measured(st=1.0, dear=1.5, cheap=0.5)))
    assert method_cost.main(["--show", str(tmp_path / "costs.json")]) == 0
    _, _, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert rows == [
        "| `cheap` | 100 | 0.50 | 0.25 to 1.00 |",
        "| `st` | 100 | 1.00 | 0.50 to 2.00 |",
        "| `dear` | 100 | 1.50 | 0.75 to 3.00 |",
    ]


@pytest.mark.slow
def test_a_mistake_is_reported_in_one_line(tmp_path, capsys):
    assert method_cost.main(["kd", "--out", str(tmp_path / "costs.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("method_cost.py: unknown method 'kd'; choose from ")


@pytest.mark.slow
def test_methods_are_compared_with_st(tmp_path):
    out = tmp_path / "costs.json"
    assert method_cost.main(["logits", "--rounds", "1", "--seconds", "0.1", "--out", str(out)]) == 0
    methods = json.loads(out.read_text())["methods"]
    assert list(methods) == ["st", "logits"]
    assert methods["st"]["step_to_st"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert methods["logits"]["step_to_st"]["median"] > 0
