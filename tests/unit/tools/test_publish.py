"""tools/publish.py copies the small files of finished runs and refuses untrustworthy ones."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from helpers.paths import TOOLS
from helpers.written_records import record, taught_by, teacher_record, write

from kd_bench.utils.errors import UserError

SCRIPT = TOOLS / "publish.py"


@pytest.fixture
def publish(tmp_path, monkeypatch, capsys):
    """Run tools/publish.py in a folder; return its exit status and its output."""
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


def test_only_the_record_and_the_history_are_copied(publish):
    write(Path("runs"), [record()])
    run = Path("runs", record().folder)
    (run / "student.pt").write_bytes(b"weights")
    assert publish() == (0, "1 published\n")
    copied = Path("results", record().folder)
    assert {path.name for path in copied.iterdir()} == {"result.json", "history.csv"}
    for name in ("result.json", "history.csv"):
        assert (copied / name).read_bytes() == (run / name).read_bytes()


def test_the_study_of_a_tuned_run_is_copied_with_it(publish):
    write(Path("runs"), [record()])
    Path("runs", record().folder, "study.json").write_text("its trials")
    assert publish() == (0, "1 published\n")
    assert Path("results", record().folder, "study.json").read_text() == "its trials"
    assert publish() == (0, "1 unchanged\n")


def test_failures_of_other_seeds_are_published_with_their_reason_until_they_finish(publish):
    write(Path("runs"), [record(seed=0)])
    for failed in (record(seed=1), record("st", seed=1)):  # no seed of st has finished
        folder = Path("runs", failed.folder)
        folder.mkdir(parents=True)
        (folder / "error.txt").write_text("FloatingPointError: loss is nan\nTraceback ...")
    assert publish() == (0, "1 failed, 1 published\n")
    (error,) = Path("results").rglob("error.txt")
    assert error.parent == Path("results", record(seed=1).folder)
    assert error.read_text() == "FloatingPointError: loss is nan\n"
    write(Path("runs"), [record(seed=1)])
    assert publish() == (0, "1 published, 1 unchanged\n")
    assert not list(Path("results").rglob("error.txt"))


def test_failures_of_a_refused_job_are_not_published(publish):
    write(Path("runs"), [record(seed=0, dirty=True)])
    folder = Path("runs", record(seed=1).folder)
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text("FloatingPointError: loss is nan")
    assert publish()[0] == 1
    assert not list(Path().glob("results/**/error.txt"))


def test_publishing_again_copies_only_new_runs(publish):
    write(Path("runs"), [record(seed=0)])
    publish()
    write(Path("runs"), [record(seed=1)])
    assert publish() == (0, "1 published, 1 unchanged\n")


def test_a_half_copied_record_is_completed(publish):
    write(Path("runs"), [record()])
    publish()
    Path("results", record().folder, "result.json").unlink()
    assert publish() == (0, "1 published\n")
    assert published() == {record().folder}


def test_a_differing_record_is_overwritten_only_on_request(publish):
    write(Path("runs"), [record(accuracy=91.0)])
    write(Path("results"), [record(accuracy=90.0)])
    result = Path("results", record().folder, "result.json")

    status, printed = publish()
    assert status == 1
    assert printed.startswith(f"kept {record().folder}: ")
    assert "--replace" in printed
    assert json.loads(result.read_text())["accuracy"]["last"] == 90.0

    assert publish("--replace") == (0, f"replaced {record().folder}\n1 replaced\n")
    assert json.loads(result.read_text())["accuracy"]["last"] == 91.0


@pytest.mark.parametrize("other", [{"dirty": True}, {"commit": None}])
def test_a_record_of_uncommitted_code_is_refused_unless_allowed(publish, other):
    write(Path("runs"), [record(**other), record(seed=1)])
    status, printed = publish()
    assert status == 1
    assert printed.startswith(f"refused {record().folder}: ")
    assert "--allow-dirty" in printed
    assert published() == {record(seed=1).folder}
    assert publish("--allow-dirty")[0] == 0
    assert published() == {record().folder, record(seed=1).folder}


def test_a_record_in_the_wrong_folder_is_refused(publish):
    write(Path("runs"), [record()])
    wrong = Path("runs", record().folder).with_name("seed7")
    Path("runs", record().folder).rename(wrong)
    status, printed = publish()
    assert status == 1
    assert wrong.relative_to("runs").as_posix() in printed
    assert record().folder in printed
    assert published() == set()


def test_a_record_whose_job_was_edited_by_hand_is_refused(publish):
    edited = record()
    edited.identity["recipe"]["epochs"] = 200
    write(Path("runs"), [edited])
    assert publish()[0] == 1
    assert published() == set()


def test_an_unfinished_record_or_one_without_history_is_refused(publish):
    write(Path("runs"), [record(status="running"), record(seed=1)])
    Path("runs", record(seed=1).folder, "history.csv").unlink()
    status, printed = publish()
    assert status == 1
    assert f"refused {record().folder}: its status is running" in printed
    assert f"refused {record(seed=1).folder}: it has no history.csv" in printed
    assert published() == set()


def test_a_filter_publishes_the_runs_of_its_table_and_their_teachers(publish):
    soft = record("st")
    elsewhere = record("st", dataset="svhn")
    write(Path("runs"), [record(), soft, record("at"), teacher_record(soft), elsewhere])
    assert publish("--dataset", "digits", "--method", "st")[0] == 0
    assert published() == {
        record().folder,
        soft.folder,
        teacher_record(soft).folder,
    }


def test_a_filter_publishes_the_whole_chain_of_its_runs(publish):
    assistant = record("st", student="resnet14")
    teacher, chained = teacher_record(assistant), taught_by(assistant, method="dkd")
    other = record("st", student="resnet56", dataset="cifar10")
    write(Path("runs"), [assistant, teacher, chained, other])
    code, _ = publish("--method", "dkd")
    assert code == 0
    assert published() == {assistant.folder, teacher.folder, chained.folder}


def test_an_unknown_filter_lists_the_existing_values(publish):
    write(Path("runs"), [record()])
    with pytest.raises(UserError, match=r"dataset 'svhn'.* digits$"):
        publish("--dataset", "svhn")


def test_a_folder_without_runs_is_a_one_line_error(publish):
    Path("runs").mkdir()
    with pytest.raises(UserError, match=r"^no finished runs in runs[^\n]*$"):
        publish()
