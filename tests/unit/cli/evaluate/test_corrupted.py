"""kd-bench evaluate --corruptions: accuracies are added to records once, and shown in tables."""

from __future__ import annotations

import json

import pytest
from helpers.jobs import rewrite_record

from kd_bench.jobs.evaluation import robustness
from kd_bench.jobs.evaluation.corruptions import catalogue
from kd_bench.results.run_folder import RESULT, read_record
from kd_bench.utils.lock import Lock


@pytest.fixture
def few(monkeypatch):
    """Two corruptions and an extra one; returns the number of networks of each measurement."""
    chosen = ("contrast", "fog")
    monkeypatch.setattr(robustness, "CORRUPTIONS", {n: catalogue.CORRUPTIONS[n] for n in chosen})
    monkeypatch.setattr(robustness, "EXTRA", {"saturate": catalogue.EXTRA["saturate"]})
    measured, measure = [], robustness.measure_corrupted

    def counted(nets, data, report):
        measured.append(len(nets))
        return measure(nets, data, report)

    monkeypatch.setattr(robustness, "measure_corrupted", counted)
    return measured


def plain(folder):
    values = json.loads((folder / RESULT).read_text())
    values.pop("checksum")
    return values


def test_runs_on_the_same_images_are_measured_together_and_once(kd_bench, finished, few):
    before = [plain(folder) for folder in finished]
    code, printed = kd_bench("evaluate", *finished, "--corruptions")
    assert code == 0, printed
    assert few == [2]
    for folder, old in zip(finished, before, strict=True):
        corrupted = read_record(folder).corrupted
        assert (list(corrupted.accuracy), list(corrupted.extra)) == (
            ["contrast", "fog"],
            ["saturate"],
        )
        assert {len(each) for each in corrupted.accuracy.values()} == {5}
        values = [v for each in corrupted.accuracy.values() for v in each]
        assert corrupted.mean == pytest.approx(sum(values) / 10)
        assert f"{folder}: {corrupted.mean:.2f} % of corrupted test images, added" in printed
        new = plain(folder)
        assert new.pop("corrupted")["revision"] == catalogue.REVISION
        assert new == old
    again = kd_bench("evaluate", *finished, "--corruptions")[1]
    assert (few, again.count("as recorded")) == ([2], 2)


def test_only_runs_without_corruptions_are_measured(kd_bench, finished, few):
    student, teacher = finished
    kd_bench("evaluate", student, "--corruptions")
    kd_bench("evaluate", student, teacher / "weights.pt", "--corruptions")
    assert few == [1, 1]
    assert read_record(teacher).corrupted is not None


def test_corruptions_of_an_older_revision_are_measured_again(kd_bench, finished, few):
    student, _ = finished
    kd_bench("evaluate", student, "--corruptions")
    rewrite_record(student, corrupted=plain(student)["corrupted"] | {"revision": 0})
    kd_bench("evaluate", student, "--corruptions")
    assert few == [1, 1]
    assert read_record(student).corrupted.revision == catalogue.REVISION


@pytest.mark.slow
def test_a_table_shows_the_mean_and_single_corruptions(kd_bench, finished, few):
    student, teacher = finished
    command = "table", "--pair", student.parts[-4], "--format", "csv", "--metric"
    code, printed = kd_bench(*command, "corrupted")
    assert (code, printed) == (
        2,
        "kd-bench: no run has corrupted; `kd-bench evaluate RUN --corruptions` adds it\n",
    )
    kd_bench("evaluate", student, teacher, "--corruptions")
    corrupted = read_record(student).corrupted
    for name, value in {
        "corrupted": corrupted.mean,
        "corrupted:fog": sum(corrupted.accuracy["fog"]) / 5,
        "corrupted:saturate": sum(corrupted.extra["saturate"]) / 5,
    }.items():
        code, printed = kd_bench(*command, name)
        assert code == 0, printed
        assert f",{value:.4f}," in printed
    assert "unknown corruption 'smoke'; choose from " in kd_bench(*command, "corrupted:smoke")[1]
    assert "unknown metric 'corrupted:'; choose from last, " in kd_bench(*command, "corrupted:")[1]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["RUN", "dataset=digits", "--corruptions"], "leave out dataset=digits"),
        (["RUN", "--corruptions", "--key", "model"], "leave out --key"),
        (["mine.pt", "--corruptions"], "there is no mine.pt; give the folder of a finished job"),
        (["--corruptions"], "the following arguments are required: CHECKPOINT"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_in_one_line(kd_bench, finished, few, words, answer):
    student, _ = finished
    code, printed = kd_bench("evaluate", *(student if word == "RUN" else word for word in words))
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
    assert not few


def test_images_other_than_those_of_the_record_are_refused(kd_bench, finished, few):
    student, _ = finished
    rewrite_record(student, data_fingerprint="other")
    code, printed = kd_bench("evaluate", student, "--corruptions")
    assert (code, few) == (2, [])
    assert printed == f"kd-bench: {student} was trained on different images\n"


def test_the_folder_of_a_running_job_is_not_changed(kd_bench, finished, few):
    student, _ = finished
    with Lock(student):
        code, printed = kd_bench("evaluate", student, "--corruptions")
    assert code == 2
    assert f"nothing was added to {student / RESULT}: " in printed
    assert read_record(student).corrupted is None
