"""The data of the report: the table's cells, and their runs with curves and links."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from helpers.written_records import failure, record, seeds, write

from kd_bench.results.rendering.report.content import content, with_curves
from kd_bench.results.run_folder import HISTORY
from kd_bench.results.store import find_placed_records
from kd_bench.results.table import table_from

BASELINE, SOFT = seeds("baseline", 89.0, 90.0, 91.0), seeds("st", 91.0, 92.0, 93.0)
DIGITS = "digits resnet20-resnet8"


def made(folder, failures=(), page="report.html"):
    runs = with_curves(find_placed_records(folder))
    table = table_from([run.record for run in runs], failures, command="kd-bench report")
    return content(table, runs, failures, str(folder), folder / page)


def cell_of(values, row, column=DIGITS):
    rows, columns = ([each["label"] for each in values[key]] for key in ("rows", "columns"))
    return values["cells"][rows.index(row)][columns.index(column)]


def test_a_cell_has_the_texts_of_the_table_and_its_runs_by_seed(tmp_path):
    write(tmp_path, [*BASELINE, *reversed(SOFT)])
    values = made(tmp_path)
    cell = cell_of(values, "st")
    assert (cell["score"], cell["difference"]) == ("92.0 ± 1.0 (3)", "+2.0")
    assert [values["runs"][place]["seed"] for place in cell["runs"]] == [0, 1, 2]
    assert [values["runs"][place]["last"] for place in cell["runs"]] == [91.0, 92.0, 93.0]


def test_the_spread_of_a_column_gives_the_interval_of_a_difference(tmp_path):
    write(tmp_path, [*BASELINE, *SOFT])
    values = made(tmp_path)
    # SD 1 with 4 degrees of freedom: t = 2.776; three seeds: 2.776 * sqrt(2 / 3)
    (spread,) = [each["spread"] for each in values["columns"] if each["label"] == DIGITS]
    assert spread * math.sqrt(2 / 3) == pytest.approx(2.776 * math.sqrt(2 / 3), rel=1e-3)
    assert cell_of(values, "st")["half"] == pytest.approx(spread * math.sqrt(2 / 3))


def test_a_row_that_varies_more_than_the_others_is_marked(tmp_path):
    others = [seeds(method, 89.9, 90.0, 90.1) for method in ("baseline", "at", "dkd")]
    write(tmp_path, sum(others, seeds("st", 50.0, 70.0, 90.0)))
    values = made(tmp_path)
    assert {row: cell_of(values, row)["unlike"] for row in ("st", "at")} == {
        "st": True,
        "at": False,
    }
    assert cell_of(values, "st")["half"] is None


def test_a_failed_run_is_among_the_runs_of_its_cell_with_its_reason(tmp_path):
    write(tmp_path, [*BASELINE, *SOFT])
    values = made(tmp_path, [failure(SOFT[0], 7)])
    cell = cell_of(values, "st")
    last = values["runs"][cell["runs"][-1]]
    assert cell["failed"] == 1
    assert (last["seed"], last["reason"]) == (7, "FloatingPointError: loss is nan")


def test_a_run_links_to_its_record_relative_to_the_page(tmp_path):
    write(tmp_path / "a: b", [record()])
    values = made(tmp_path / "a: b", page="pages/report.html")
    assert values["runs"][0]["link"] == f"../{record().folder}/result.json"
    values = made(tmp_path / "a: b", page="../report.html")
    assert values["runs"][0]["link"].startswith("a%3A%20b/digits/")


def test_runs_of_equal_epochs_share_them(tmp_path):
    write(tmp_path, [*BASELINE, *SOFT])
    for run in (*BASELINE, *SOFT):
        (tmp_path / run.folder / HISTORY).write_text("epoch,test_accuracy\n1,50.123\n2,60\n")
    values = made(tmp_path)
    assert values["epochs"] == [(1, 2)]
    assert {run["epochs"] for run in values["runs"]} == {0}
    assert values["runs"][0]["curve"] == [50.12, 60.0]


def test_a_damaged_history_is_reported_and_its_run_is_kept(tmp_path, capsys):
    write(tmp_path, [record()])
    path: Path = tmp_path / record().folder / HISTORY
    path.write_text("epoch,test_accuracy\n1,many\n")
    assert made(tmp_path)["runs"][0]["curve"] == []
    assert capsys.readouterr().err == f"kd-bench: left out: {path} is damaged\n"


def test_rows_have_their_kind(tmp_path):
    write(tmp_path, [*BASELINE, *SOFT, *seeds("control_shuffled", 88.0, 89.0)])
    values = made(tmp_path)
    kinds = {row["label"]: row["kind"] for row in values["rows"]}
    assert kinds == {"baseline": "methods", "st": "methods", "control_shuffled": "controls"}
    assert values["kinds"] == ["methods", "controls"]
