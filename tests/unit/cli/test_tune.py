"""kd-bench tune: runs trials, chooses the best and trains with it; the same command resumes."""

from __future__ import annotations

import pytest
from helpers.jobs import TINY
from helpers.shell import results, run

from kd_bench.results.study import STUDY
from kd_bench.sweep.tuning import TRIALS

TUNE = ("tune", *TINY, "recipe.epochs=1", "method=baseline,st", "trials=2", "studies=1")


@pytest.mark.slow
def test_each_method_has_two_rows_and_a_second_run_trains_nothing(tmp_path):
    code, printed = run(tmp_path, *TUNE)
    assert code == 0, printed
    trials = list(tmp_path.glob(f"runs/{TRIALS}/synthetic/*/*/*/seed0/result.json"))
    assert len(trials) == 2 * 2 + 1  # two of each method, and their teacher
    before = results(tmp_path)
    assert len(before) == 2 * 2 + 1  # published and tuned values, and the teacher
    assert len(list(tmp_path.glob(f"runs/synthetic/*/*/*/seed0/{STUDY}"))) == 2
    table = printed.partition("─\n")[2].partition("\n\n")[0]
    rows = [line.strip().rsplit("  ", 1)[0].strip() for line in table.splitlines()]
    assert rows == ["teacher", "baseline", "baseline (tuned)", "st", "st (tuned)"]
    code, again = run(tmp_path, *TUNE)
    assert code == 0
    assert "done: " not in again
    assert results(tmp_path) == before
    chosen = [line for line in printed.splitlines() if "best of 2 trials" in line]
    assert len(chosen) == 2
    assert [line for line in again.splitlines() if "best of 2 trials" in line] == chosen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trials=0"], "trials must be 1 or more, got 0"),
        (["studies=0"], "studies must be 1 or more, got 0"),
        (["seed=3"], "studies=3 has the seeds 0 to 2; leave out seed="),
        (["trials=few"], "trials"),
        (["method=lwm"], "lwm has no `search:`"),
    ],
)
def test_mistakes_are_reported_in_one_line(kd_bench, words, message):
    code, printed = kd_bench("tune", *TINY, *words)
    assert code == 2
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_help_shows_the_options(kd_bench):
    code, printed = kd_bench("tune", "--help")
    assert code == 0
    assert "trials=N" in printed
