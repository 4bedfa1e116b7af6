"""kd-bench report writes a page of finished runs."""

from __future__ import annotations

import json
import re

from helpers.written_records import record, seeds, write

from kd_bench.results.run_folder import RESULT

RECORDS = [*seeds("baseline", 89.0, 90.0, 91.0), *seeds("st", 91.0, 92.0, 93.0)]


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def test_a_page_of_the_runs_folder_is_written(kd_bench, tmp_path):
    write(tmp_path / "runs", RECORDS)
    code, printed = kd_bench("report")
    assert code == 0
    assert re.fullmatch(r"wrote report\.html \(\d+\.\d kB\)\n", printed)
    values = data_of(tmp_path / "report.html")
    assert [row["label"] for row in values["rows"]] == ["baseline", "st"]
    assert values["command"] == "kd-bench report"


def test_another_folder_metric_and_file(kd_bench, tmp_path):
    write(tmp_path / "other", [record(accuracy=50.0, best=60.0)])
    words = ["--from", "other", "--metric", "best", "--out", "pages/all.html"]
    assert kd_bench("report", *words)[0] == 0
    values = data_of(tmp_path / "pages" / "all.html")
    assert values["cells"][0][0]["mean"] == 60.0
    assert values["runs"][0]["link"] == f"../other/{record().folder}/{RESULT}"


def test_a_damaged_record_is_reported_and_unfinished_jobs_are_left_out(kd_bench, tmp_path):
    write(tmp_path / "runs", RECORDS)
    damaged = tmp_path / "runs" / RECORDS[0].folder / RESULT
    damaged.write_text(damaged.read_text()[:500])
    unfinished = tmp_path / "runs" / record("at").folder
    unfinished.mkdir(parents=True)
    (unfinished / "history.csv").write_text("epoch,test_acc")
    code, printed = kd_bench("report")
    assert code == 0
    assert f"kd-bench: left out: runs/{RECORDS[0].folder}/{RESULT} is not a valid record" in printed
    assert len(data_of(tmp_path / "report.html")["runs"]) == len(RECORDS) - 1


def test_without_runs_the_command_that_starts_some_is_given(kd_bench):
    code, printed = kd_bench("report")
    assert "no finished runs in runs; start some with" in f"{code}{printed}"
