"""kd-bench rerun: runs a recorded job again and reports differences."""

import shutil
import tempfile
from functools import partial

import pytest
from helpers.jobs import job, rewrite_record, trained

from kd_bench.config.convert import to_plain
from kd_bench.jobs import record as job_record
from kd_bench.results.record import Record
from kd_bench.results.run_folder import read_record


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder for the reruns of a test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.slow
def test_equal_results_are_reported_and_the_rerun_is_deleted(kd_bench, finished, temporary):
    student, _ = finished
    code, printed = kd_bench("rerun", student)
    accuracy = read_record(student).accuracy.last
    assert code == 0
    assert f"equal bit for bit: {accuracy:.2f} %\n" in printed
    assert list(temporary.glob("kd-bench*")) == []


@pytest.mark.slow
def test_a_published_record_is_enough(kd_bench, finished, tmp_path, temporary):
    student, _ = finished
    for name in ("result.json", "history.csv"):
        shutil.copy(student / name, tmp_path / name)
    shutil.rmtree(tmp_path / "runs")
    assert kd_bench("rerun", tmp_path / "result.json")[0] == 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_different_results_are_reported_with_changed_conditions_and_kept(
    kd_bench, finished, temporary
):
    student, _ = finished
    old = read_record(student)
    versions = old.versions | {"torch": "1.0.0"}
    accuracy = to_plain(old.accuracy) | {"last": 12.5}
    rewrite_record(
        student, accuracy=accuracy, versions=versions, threads=3, commit="abc123", dirty=False
    )
    lines = (student / "history.csv").read_text().splitlines()
    (student / "history.csv").write_text("\n".join([*lines[:2], lines[2] + "1"]) + "\n")
    code, printed = kd_bench("rerun", student)
    last = old.accuracy.last
    assert code == 1
    assert (
        f"DIFFERENT: accuracy.last was 12.5, is {last}; history.csv differs from epoch 2 on"
        in printed
    )
    conditions = next(
        line for line in printed.splitlines() if line.startswith("conditions that differ")
    )
    assert f"threads was 3, is 1; torch was 1.0.0, is {old.versions['torch']}" in conditions
    assert "commit was abc123, is " in conditions
    assert "device" not in conditions
    assert "data" not in conditions
    assert "python" not in conditions
    (kept,) = temporary.glob("*/synthetic/*/st/*/seed0")
    assert f"the new run is in {kept}" in printed


@pytest.mark.slow
def test_different_results_under_the_same_conditions_are_a_bug(kd_bench, finished, monkeypatch):
    _, teacher = finished
    accuracy = to_plain(read_record(teacher).accuracy) | {"last": 12.5}
    for is_dirty, word in (
        (False, "so this is a bug"),
        (True, "uncommitted changes may differ"),
    ):
        code = {"commit": "abc123", "dirty": is_dirty}
        monkeypatch.setattr(job_record, "code_version", partial(dict, code))
        rewrite_record(teacher, accuracy=accuracy, **code)
        code, printed = kd_bench("rerun", teacher)
        assert code == 1
        assert word in printed
        assert ("conditions that differ: " in printed) == is_dirty


def test_a_record_without_its_history_is_compared_by_its_accuracies(kd_bench, finished):
    _, teacher = finished
    (teacher / "history.csv").unlink()
    code, printed = kd_bench("rerun", teacher)
    assert code == 0
    assert "no history.csv beside the record: only accuracies are compared" in printed


def test_a_chosen_folder_is_kept(kd_bench, finished, tmp_path):
    _, teacher = finished
    code, printed = kd_bench("rerun", teacher, "runs_dir=again")
    folder = tmp_path / "again" / read_record(teacher).folder
    assert code == 0
    assert read_record(folder)
    assert f"the new run is in {folder.relative_to(tmp_path)}" in printed


def test_keys_missing_in_an_older_record_have_their_defaults(tmp_path):
    record, _ = trained(job(tmp_path, "method=baseline", "recipe.epochs=1"))
    older = record.to_json()
    config = older["config"]
    del config["recipe"]["drop_last"], config["teacher"]["source"], config["speed"]
    del older["execution"], older["seconds_of_warm_up"], older["checksum"]
    assert Record.from_json(older).config == record.config


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["nowhere/result.json"], "there is no nowhere/result.json; give the folder of"),
        (["."], "there is no result.json in .; give the folder of a finished job: runs/<"),
        ([], "the following arguments are required: RECORD; usage: kd-bench rerun"),
        (["RECORD", "runs_dir=runs"], "runs has this job already"),
        (
            ["RECORD", "--data", "images"],
            "dataset 'synthetic' are not in a folder; leave out --data",
        ),
        (["RECORD", "--device", "gpu"], "--device: unknown 'gpu'; choose from"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_in_one_line(kd_bench, finished, temporary, typed, answer):
    _, teacher = finished
    code, printed = kd_bench("rerun", *(teacher if word == "RECORD" else word for word in typed))
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
    assert list(temporary.glob("kd-bench*")) == []
