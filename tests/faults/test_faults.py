"""The harness of faults: it reports a broken kd-bench as what it is.

`.ci/run` tries a few faults of each kind on kd-bench itself, `make faults` all of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT, TOOLS
from helpers.shell import environment

from faults import oracle, report
from faults.harness import Result
from faults.oracle import Found, Outcome

LINE = "kd-bench: runs/a/weights.pt is damaged; delete its folder to train again: rm -r runs/a"


def reliability(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tools/reliability.py in a new process, which has no threads that a fork would lose."""
    command = [sys.executable, str(TOOLS / "reliability.py"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500
    )


@pytest.mark.slow
def test_every_planted_bug_is_reported_with_its_outcome():
    done = reliability("--self-check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_later_run_replaces_the_rows_that_it_tried(tmp_path):
    file, of = tmp_path / "results.json", {"kills": 5, "damages": 3}
    ok, refused = Outcome.RECOVERED, Outcome.REFUSED
    tried = [Result("damages", "a", refused, ""), Result("kills", "b", ok, "")]
    report.write(file, tried, of, 10.0)
    report.write(file, [Result("kills", "b", ok, ""), Result("kills", "c", ok, "")], of, 5.0)
    _, _, *rows, last = report.show(file).split("\n\n")[0].splitlines()
    assert [row.split(" | ")[:5] for row in rows] == [
        ["| kills", "5", "2", "2", "0"],
        ["| damages", "3", "1", "0", "1"],
    ]
    assert last.startswith("| **all** | 8 | 3 | 2 | 1 | 0 |")
    assert report.show(file).endswith("in 15 s.")


# The oracle


@pytest.fixture
def folders(tmp_path):
    """Two equal folders of a finished job."""
    for name in ("found", "expected"):
        job = tmp_path / name / "job"
        job.mkdir(parents=True)
        (job / "history.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
        (job / "timing.csv").write_text(f"epoch,train\n1,{len(name)}\n2,1\n")
        (job / "result.json").write_text(f'{{"seed": 0, "seconds": {len(name)}}}')
    return tmp_path / "found", tmp_path / "expected"


def test_folders_that_differ_only_in_times_are_equal(folders):
    oracle.check_files(*folders)


@pytest.mark.parametrize(
    ("name", "content", "outcome"),
    [
        ("history.csv", "epoch,loss\n1,0.5\n", Outcome.LOST),
        ("timing.csv", "epoch,train\n1,1\n", Outcome.LOST),
        ("history.csv", "epoch,loss\n1,0.5\n1,0.5\n2,0.25\n", Outcome.DOUBLED),
        ("history.csv", "epoch,loss\n1,0.5\n2,0.5\n", Outcome.WRONG),
        ("result.json", '{"seed": 1, "seconds": 5}', Outcome.WRONG),
        ("result.json", "{", Outcome.WRONG),
        ("notes.txt", "", Outcome.WRONG),  # an extra file
        ("history.csv", None, Outcome.LOST),
    ],
)
def test_every_difference_is_found_and_classified(folders, name, content, outcome):
    path: Path = folders[0] / "job" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(Found, match=path.stem) as found:
        oracle.check_files(*folders)
    assert found.value.outcome is outcome


def test_the_file_and_the_remedy_of_a_refusal_are_found(tmp_path):
    damaged = tmp_path / "runs/a/weights.pt"
    damaged.parent.mkdir(parents=True)
    damaged.touch()
    assert oracle.refusal(f"waiting\n{LINE}\n", damaged, tmp_path) == LINE
    assert oracle.to_delete(LINE, tmp_path) == damaged.parent
    assert oracle.to_delete("runs/a/weights.pt is damaged: delete it", tmp_path) == damaged


@pytest.mark.parametrize(
    "output", ["", f"{LINE}\n{LINE}\n", "kd-bench: weights.pt is damaged; delete it"]
)
def test_a_refusal_of_no_line_two_lines_or_without_the_file_is_unclear(tmp_path, output):
    with pytest.raises(Found) as found:
        oracle.refusal(output, tmp_path / "runs/a/weights.pt", tmp_path)
    assert found.value.outcome is Outcome.UNCLEAR


def test_a_traceback_is_found_in_the_output_and_in_console_logs(tmp_path):
    oracle.check_no_traceback(tmp_path, ["done"])
    with pytest.raises(Found, match="KeyError"):
        oracle.check_no_traceback(tmp_path, [f"{oracle.TRACEBACK}:\nKeyError: 'data'"])
    (tmp_path / "console.log").write_text(f"{oracle.TRACEBACK}:\nValueError: no")
    with pytest.raises(Found, match=r"console\.log: ValueError"):
        oracle.check_no_traceback(tmp_path, ["done"])
