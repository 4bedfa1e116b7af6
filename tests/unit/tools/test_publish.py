"""Publishing copies the small records of finished runs, and nothing that should not be believed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from helpers.paths import TOOLS
from helpers.written_records import record, teacher_record, write

from kd_bench.utils.errors import UserError

SCRIPT = TOOLS / "publish.py"


@pytest.fixture
def publish(tmp_path, monkeypatch, capsys):
    """Run tools/publish.py with some arguments beside runs/; its exit status and what it said."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("tools_publish", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments: str) -> tuple[int, str]:
        status = module.main(list(arguments))
        return status, capsys.readouterr().out

    return run


def published() -> set[str]:
    """The folders of the records in results/."""
    return {
        path.parent.relative_to("results").as_posix() for path in Path("results").rglob("*.json")
    }


def test_the_record_and_the_history_are_copied_and_nothing_else(publish):
    write(Path("runs"), [record()])
    run = Path("runs", record()["folder"])
    (run / "student.pt").write_bytes(b"weights")
    assert publish() == (0, "1 published\n")
    copied = Path("results", record()["folder"])
    assert {path.name for path in copied.iterdir()} == {"result.json", "history.csv"}
    for name in ("result.json", "history.csv"):
        assert (copied / name).read_bytes() == (run / name).read_bytes()


def test_publishing_again_copies_only_what_is_new(publish):
    write(Path("runs"), [record(seed=0)])
    publish()
    write(Path("runs"), [record(seed=1)])
    assert publish() == (0, "1 published, 1 unchanged\n")


def test_a_half_copied_record_is_completed(publish):
    write(Path("runs"), [record()])
    publish()
    Path("results", record()["folder"], "result.json").unlink()
    assert publish() == (0, "1 published\n")
    assert published() == {record()["folder"]}


def test_a_differing_record_is_overwritten_only_when_told_to(publish):
    write(Path("runs"), [record(accuracy=91.0)])
    write(Path("results"), [record(accuracy=90.0)])
    result = Path("results", record()["folder"], "result.json")

    status, told = publish()
    assert status == 1
    assert told.startswith(f"kept {record()['folder']}: the published one differs (--replace")
    assert json.loads(result.read_text())["accuracy"]["last"] == 90.0

    assert publish("--replace") == (0, f"replaced {record()['folder']}\n1 replaced\n")
    assert json.loads(result.read_text())["accuracy"]["last"] == 91.0


@pytest.mark.parametrize("other", [{"dirty": True}, {"commit": None}])
def test_a_record_of_an_unknown_state_of_the_code_is_refused_unless_allowed(publish, other):
    write(Path("runs"), [record(**other), record(seed=1)])
    status, told = publish()
    assert status == 1
    assert told.startswith(f"refused {record()['folder']}: ")
    assert "--allow-dirty" in told
    assert published() == {record(seed=1)["folder"]}
    assert publish("--allow-dirty")[0] == 0
    assert published() == {record()["folder"], record(seed=1)["folder"]}


def test_a_record_that_lies_where_it_does_not_belong_is_refused(publish):
    write(Path("runs"), [record()])
    wrong = Path("runs", record()["folder"]).with_name("seed7")
    Path("runs", record()["folder"]).rename(wrong)
    status, told = publish()
    assert status == 1
    assert f"its record says {record()['folder']}" in told
    assert published() == set()


def test_a_record_whose_job_was_edited_by_hand_is_refused(publish):
    edited = record()
    edited["identity"]["recipe"]["epochs"] = 200
    write(Path("runs"), [edited])
    assert publish()[0] == 1
    assert published() == set()


def test_a_record_that_is_not_done_or_has_no_history_is_refused(publish):
    write(Path("runs"), [record(status="running"), record(seed=1)])
    Path("runs", record(seed=1)["folder"], "history.csv").unlink()
    status, told = publish()
    assert status == 1
    assert "its status is running" in told
    assert "it has no history.csv" in told
    assert published() == set()


def test_a_filter_publishes_what_the_table_with_it_shows_and_the_teachers_behind(publish):
    soft = record("st")
    elsewhere = record("st", dataset="svhn")
    write(Path("runs"), [record(), soft, record("at"), teacher_record(soft), elsewhere])
    assert publish("--dataset", "digits", "--method", "st")[0] == 0
    assert published() == {
        record()["folder"],
        soft["folder"],
        teacher_record(soft)["folder"],
    }


def test_an_unknown_filter_is_answered_with_what_is_there(publish):
    write(Path("runs"), [record()])
    with pytest.raises(UserError, match=r"no records of dataset 'svhn'; there are digits"):
        publish("--dataset", "svhn")


def test_a_folder_without_runs_is_one_line(publish):
    Path("runs").mkdir()
    with pytest.raises(UserError, match=r"^no finished runs in runs$"):
        publish()
