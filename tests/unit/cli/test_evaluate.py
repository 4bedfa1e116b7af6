"""kd-bench evaluate: the accuracy of a checkpoint, and metrics that are missing in its record."""

import json
import os
import shutil

import pytest
import torch
from helpers.jobs import IMAGES, job, rewrite_record, trained

from kd_bench.config.convert import to_plain
from kd_bench.results.record import CHECKSUM
from kd_bench.results.run_folder import RESULT, TEST_LOGITS, read_record
from kd_bench.utils.lock import Lock

MODEL = ("model=resnet8_half", "model.net.widths=[8,8,16,16]")


def test_the_weights_of_a_run_have_the_recorded_accuracy(kd_bench, finished):
    for folder in finished:
        accuracy = read_record(folder).accuracy.last
        code, printed = kd_bench("evaluate", folder / "weights.pt")
        assert (code, printed) == kd_bench("evaluate", folder)
        assert code == 0
        assert f"on synthetic: {accuracy:.2f} % of 24 test images\n" in printed
        assert printed.endswith(f"recorded: {accuracy:.2f} %, equal\n")


@pytest.mark.parametrize("command", [["evaluate"], ["rerun"], ["export", "--to", "net.pt"]])
def test_the_record_of_another_job_is_refused(kd_bench, finished, command):
    student, teacher = finished
    shutil.copy(teacher / "result.json", student)
    code, printed = kd_bench(command[0], student, *command[1:])
    assert code == 2
    (line,) = printed.splitlines()
    assert f"{student / 'result.json'} is the record of another job, synthetic/none-" in line
    assert line.endswith("; delete it to run the job again")


@pytest.mark.slow
def test_without_a_record_model_and_dataset_are_chosen(kd_bench, finished, tmp_path):
    student, _ = finished
    shutil.copy(student / "weights.pt", tmp_path / "mine.pt")
    code, printed = kd_bench("evaluate", "mine.pt", *MODEL, *IMAGES)
    accuracy = read_record(student).accuracy.last
    assert code == 0
    assert printed == f"resnet8_half on synthetic: {accuracy:.2f} % of 24 test images\n"


@pytest.mark.slow
def test_the_key_of_the_state_dict_can_be_given(kd_bench, finished, tmp_path):
    student, _ = finished
    state = torch.load(student / "weights.pt", weights_only=True)
    changed = state | {"fc.bias": state["fc.bias"] + torch.tensor([1e9, 0.0, 0.0, 0.0])}
    torch.save({"model": changed, "model_ema": state}, tmp_path / "both.pt")
    code, printed = kd_bench("evaluate", "--key", "model_ema", "both.pt", *MODEL, *IMAGES)
    accuracy = read_record(student).accuracy.last
    assert (code, f"{accuracy:.2f} % of 24 test images" in printed) == (0, True), printed
    _, printed = kd_bench("evaluate", "both.pt", *MODEL, *IMAGES)
    assert "25.00 % of 24 test images" in printed  # all of the first class


@pytest.mark.slow
def test_another_dataset_can_be_chosen_for_a_run(kd_bench, finished):
    student, _ = finished
    more = [choice.replace("test=24", "test=48") for choice in IMAGES]
    code, printed = kd_bench("evaluate", student / "weights.pt", *more)
    assert code == 0
    assert printed.startswith("resnet8_half on synthetic: ")
    assert "of 48 test images" in printed
    assert "recorded" not in printed


def test_a_difference_from_the_recorded_accuracy_is_reported(kd_bench, finished):
    student, _ = finished
    record = read_record(student)
    last = record.accuracy.last
    rewrite_record(student, accuracy=to_plain(record.accuracy) | {"last": last - 1.5})
    _, printed = kd_bench("evaluate", student / "weights.pt")
    assert f"recorded: {last - 1.5:.2f} %, +1.50 points now" in printed
    rewrite_record(student, data_fingerprint="other")
    _, printed = kd_bench("evaluate", student / "weights.pt")
    assert "on different images: the data have changed since" in printed


def test_weights_with_another_hash_than_in_the_record_are_refused(kd_bench, finished):
    student, teacher = finished
    shutil.copy(teacher / "weights.pt", student / "weights.pt")
    for typed in (["evaluate", student], ["export", student, "--to", "x.pt"]):
        code, printed = kd_bench(*typed)
        assert (code, printed.count("\n")) == (2, 1), printed
        assert "weights.pt does not match the hash in its record" in printed


@pytest.mark.slow
def test_an_own_model_is_found_with_config_dir(kd_bench, finished, tmp_path):
    student, _ = finished
    shutil.copy(student / "weights.pt", tmp_path / "mine.pt")
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "own.yaml").write_text(
        "name: own\n"
        "net: {_target_: kd_bench.models.resnet.ResNet, depth: 8, widths: [8, 8, 16, 16]}\n"
    )
    code, printed = kd_bench("evaluate", "mine.pt", "model=own", *IMAGES, "--config-dir", "conf")
    assert code == 0, printed
    assert printed.startswith("own on synthetic: ")


@pytest.mark.slow
def test_choices_may_come_before_and_after_options(kd_bench, finished, tmp_path):
    student, _ = finished
    torch.save({"ema": torch.load(student / "weights.pt", weights_only=True)}, "ema.pt")
    code, printed = kd_bench("evaluate", "ema.pt", *MODEL, "--key", "ema", *IMAGES)
    assert code == 0, printed
    assert "resnet8_half on synthetic: " in printed


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ([], "the following arguments are required: CHECKPOINT; usage: kd-bench evaluate"),
        (["no.pt"], "there is no file no.pt"),
        (["mine.pt"], "choose the model and dataset: add model=NAME dataset=NAME"),
        (["mine.pt", "model=resnet20"], "choose the dataset: add dataset=NAME"),
        (["mine.pt", "model=[resnet8,resnet20]", "dataset=digits"], "choose one; -m model="),
        (["mine.pt", "model=resnet21", "dataset=digits"], "unknown model 'resnet21'; choose from "),
        (["mine.pt", *MODEL, "dataset=digits"], "fc.weight is (4, 16) in the file and (10, 16)"),
        (["mine.pt", *MODEL, "dataset=cifar10"], "dataset.download=true"),
        (["WEIGHTS", "dataset.pad=1"], "choose the model and dataset: add model=NAME dataset=NAME"),
        (["bad.pt", *MODEL, *IMAGES], "bad.pt is not a checkpoint of tensors only"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_in_one_line(kd_bench, finished, tmp_path, typed, answer):
    student, _ = finished
    shutil.copy(student / "weights.pt", tmp_path / "mine.pt")
    torch.save({"model": shutil.rmtree}, tmp_path / "bad.pt")
    words = (student / "weights.pt" if word == "WEIGHTS" else word for word in typed)
    code, printed = kd_bench("evaluate", *words)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed


# Metrics that are missing in records of older versions


def make_older(folder):
    """Remove what a record of version 0.1 lacks; returns the record's values from before."""
    plain = json.loads((folder / RESULT).read_text())
    older = {k: v for k, v in plain.items() if k not in ("metrics", "test_logits_sha256", CHECKSUM)}
    (folder / RESULT).write_text(json.dumps(older))
    (folder / TEST_LOGITS).unlink()
    return plain


def values(folder):
    return json.loads((folder / RESULT).read_text())


def test_an_older_record_gets_what_its_job_would_store_today(kd_bench, finished):
    for folder in finished:
        logits = (folder / TEST_LOGITS).read_bytes()
        before = make_older(folder)
        _, printed = kd_bench("evaluate", folder)
        first, second, added = printed.splitlines()
        assert (first.endswith("of 24 test images"), second.endswith("equal")) == (True, True)
        assert added == f"added to {folder}: test_logits.pt and metrics"
        assert values(folder) == before  # including all other fields and the checksum
        assert (folder / TEST_LOGITS).read_bytes() == logits


def test_a_complete_record_is_not_rewritten(kd_bench, finished):
    student, _ = finished
    os.utime(student / RESULT, (0, 0))
    assert "added" not in kd_bench("evaluate", student)[1]
    assert (student / RESULT).stat().st_mtime == 0


def test_unknown_fields_of_a_record_are_kept(kd_bench, finished):
    student, _ = finished
    make_older(student)
    rewrite_record(student, of_the_future=[1, 2])
    kd_bench("evaluate", student)
    assert values(student)["of_the_future"] == [1, 2]
    assert read_record(student).metrics is not None


@pytest.mark.parametrize("content", [b"", b"no logits", None])
def test_damaged_or_deleted_logits_are_computed_again(kd_bench, finished, content):
    student, _ = finished
    whole, before = (student / TEST_LOGITS).read_bytes(), values(student)
    (student / TEST_LOGITS).unlink()
    if content is not None:
        (student / TEST_LOGITS).write_bytes(content)
    _, printed = kd_bench("evaluate", student)
    assert printed.endswith(f"added to {student}: test_logits.pt (damaged or deleted)\n")
    assert (student / TEST_LOGITS).read_bytes() == whole
    assert values(student) == before


def test_metrics_that_need_a_missing_teacher_are_added_later(kd_bench, finished, tmp_path):
    student, teacher = finished
    before = make_older(student)
    teacher.rename(tmp_path / "elsewhere")
    _, printed = kd_bench("evaluate", student)
    assert f"not compared with the teacher: there is no finished job in {teacher}\n" in printed
    assert read_record(student).metrics.kl is None
    assert values(student)["metrics"]["nll"] == before["metrics"]["nll"]
    assert kd_bench("evaluate", student)[1].endswith(f"finished job in {teacher}\n")
    (tmp_path / "elsewhere").rename(teacher)
    assert kd_bench("evaluate", student)[1].endswith(f"added to {student}: metrics\n")
    assert values(student) == before


def test_weights_of_another_teacher_are_reported(kd_bench, finished):
    student, teacher = finished
    make_older(student)
    content = torch.load(teacher / "weights.pt", weights_only=True)
    torch.save({name: torch.zeros_like(each) for name, each in content.items()}, teacher / "w.pt")
    (teacher / "w.pt").rename(teacher / "weights.pt")
    _, printed = kd_bench("evaluate", student)
    assert "not compared with the teacher: " in printed
    assert "does not match the hash in its record" in printed
    rewrite_record(teacher, weights_sha256=None)  # of version 0.1
    rewrite_record(student, teacher=values(student)["teacher"] | {"accuracy": 90.0})
    assert "% according to the record" in kd_bench("evaluate", student)[1]


@pytest.mark.slow
def test_a_student_is_compared_with_its_given_checkpoint_once_that_is_found(
    kd_bench, finished, tmp_path
):
    _, teacher = finished
    shutil.copy(teacher / "weights.pt", tmp_path / "given.pt")
    words = (
        f"teacher.checkpoint={tmp_path / 'given.pt'}",
        f"teacher.expected_accuracy={read_record(teacher).accuracy.last}",  # near chance
    )
    _, folder = trained(job(tmp_path / "runs", "method=st", *words))
    before = make_older(folder)
    (tmp_path / "given.pt").rename(tmp_path / "moved.pt")
    assert "not compared with the teacher: cannot read" in kd_bench("evaluate", folder)[1]
    (tmp_path / "moved.pt").rename(tmp_path / "given.pt")
    kd_bench("evaluate", folder)
    assert values(folder) == before


@pytest.mark.slow
def test_a_teacher_trained_with_its_student_is_reported_as_not_kept(kd_bench, tmp_path):
    _, folder = trained(job(tmp_path / "runs", "method=dml"))
    make_older(folder)
    _, printed = kd_bench("evaluate", folder)
    assert "trained along with the student, and its weights were not kept" in printed
    assert printed.endswith(f"added to {folder}: test_logits.pt and metrics\n")


def test_a_teacher_of_untrusted_code_needs_trust(kd_bench, finished):
    student, _ = finished
    make_older(student)
    config = values(student)["config"]
    config["teacher"]["model"]["net"]["_target_"] = "other.Net"
    rewrite_record(student, config=config)
    code, printed = kd_bench("evaluate", student)
    assert code == 0
    assert "not compared with the teacher: " in printed
    assert "add --trust other\n" in printed


def test_metrics_are_not_added_if_the_accuracy_differs_from_the_record(kd_bench, finished):
    student, _ = finished
    make_older(student)
    rewrite_record(student, accuracy=to_plain(read_record(student).accuracy) | {"last": 20.0})
    assert "nothing was added to the record: the accuracy" in kd_bench("evaluate", student)[1]
    rewrite_record(student, data_fingerprint="other")
    assert "added" not in kd_bench("evaluate", student)[1]
    assert "metrics" not in values(student)


class Killed(BaseException):
    """Ends a command like SIGKILL."""


@pytest.mark.parametrize("number", [0, 1])
def test_a_command_killed_before_a_rename_adds_everything_the_next_time(
    kd_bench, finished, monkeypatch, number
):
    student, _ = finished
    before, replace, renames = make_older(student), os.replace, []

    def rename(old, new):
        renames.append(new)
        if len(renames) > number:
            raise Killed
        replace(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", rename)
        with pytest.raises(Killed):
            kd_bench("evaluate", student)
    assert "metrics" not in values(student)
    kd_bench("evaluate", student)
    assert values(student) == before


def test_the_folder_of_a_running_job_is_not_changed(kd_bench, finished):
    student, _ = finished
    make_older(student)
    with Lock(student):
        code, printed = kd_bench("evaluate", student)
    assert code == 0
    assert "nothing was added to the record: " in printed
    assert "metrics" not in values(student)
