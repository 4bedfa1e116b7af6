"""Published accuracies: those in the package, and checks of each line."""

from __future__ import annotations

import pytest
from helpers.paths import ROOT

from kd_bench.results.published.values import COLUMNS, FOLDER, Source, read_published
from kd_bench.utils.errors import UserError

LINE = "cifar100,resnet56,resnet20,st,70.66,0.24,5,last,A paper (2020),table 1,https://a.b/c"


def read(tmp_path, *lines):
    (tmp_path / "paper.csv").write_text("\n".join([",".join(COLUMNS), *lines, ""]))
    return read_published(tmp_path)


def test_a_line_is_read(tmp_path):
    (value,) = read(tmp_path, LINE)
    assert (value.dataset, value.pair, value.method) == ("cifar100", "resnet56-resnet20", "st")
    assert (value.accuracy, value.sd) == (70.66, 0.24)
    assert value.source == Source("A paper (2020)", "table 1", "https://a.b/c", "last", 5)
    assert str(value.source) == "A paper (2020), table 1: last epoch, 5 runs, https://a.b/c"


def test_standard_deviation_and_runs_may_be_unknown(tmp_path):
    (value,) = read(tmp_path, LINE.replace(",0.24,5,last", ",,,unknown"))
    assert (value.sd, value.source.runs) == (None, None)
    assert "table 1: unknown epoch, unknown number of runs" in str(value.source)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (LINE.replace("70.66", "706"), "accuracy must be in percent, got 706"),
        (LINE.replace("70.66", "high"), "could not convert string to float: 'high'"),
        (LINE.replace("0.24", "-1"), "sd must be 0 or more"),
        (LINE.replace(",5,", ",0,"), "runs must be above 0"),
        (LINE.replace("last", "first"), "unknown rule 'first'; choose from last, best, unknown"),
        (LINE.replace("https", "http"), "url must begin with https://"),
        (LINE.replace("A paper (2020)", ""), "source is missing"),
        (f"{LINE}\n{LINE}", "paper.csv:3: cifar100 resnet56-resnet20 st occurs twice"),
        (f"{LINE},more", "more values than columns"),
        ("cifar100,resnet56", "student, method, accuracy, rule, source, place, url is missing"),
    ],
)
def test_an_invalid_line_is_reported(tmp_path, line, reason):
    with pytest.raises(UserError, match=r"paper\.csv") as caught:
        read(tmp_path, line)
    assert reason in str(caught.value)


def test_other_columns_are_refused(tmp_path):
    (tmp_path / "paper.csv").write_text("method,accuracy\nst,70\n")
    with pytest.raises(UserError, match=r"paper\.csv: the columns must be dataset, teacher"):
        read_published(tmp_path)


def test_the_values_in_the_package_have_known_methods_plugins_and_models():
    values = read_published()
    methods = {path.stem for path in (ROOT / "conf/method").glob("*.yaml")}
    plugins = {path.stem for path in (ROOT / "conf/plugin").glob("*.yaml")}
    models = {path.stem for path in (ROOT / "conf/model").glob("*.yaml")}
    for value in values:
        method, *plugged = value.method.split(" + ")
        assert method in methods
        assert {*plugged} <= plugins
        assert {value.teacher, value.student} <= models
    assert {value.dataset for value in values} == {"cifar10", "cifar100", "imagenet"}


def test_the_values_of_crd_match_its_tables():
    found = {(v.pair, v.method): v for v in read_published() if v.source.name.startswith("CRD")}
    same = found["resnet32x4-resnet8x4", "st"]
    assert (same.accuracy, same.source.place, same.source.runs) == (73.33, "table 1", 5)
    across = found["resnet50-mobilenet_v2", "crd"]
    assert (across.accuracy, across.source.place, across.source.runs) == (69.11, "table 2", 3)
    assert len(found) == 7 * 14 - 1 + 6 * 13  # FSP is not on wrn_40_2-wrn_40_1, nor in table 2


def test_the_files_are_part_of_the_package():
    assert "kd_bench.results.published = *.csv" in (ROOT / "setup.cfg").read_text()
    assert len(list(FOLDER.glob("*.csv"))) > 5
