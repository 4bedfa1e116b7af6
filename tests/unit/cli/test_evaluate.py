"""kd-bench evaluate: the accuracy of a file of weights, beside its record or without one."""

import shutil

import pytest
import torch
from helpers.jobs import IMAGES, rewrite_record

from kd_bench.config.convert import to_plain
from kd_bench.results.run_folder import read_record

MODEL = ("model=resnet8_half", "model.net.widths=[8,8,16,16]")


def test_beside_its_record_it_scores_what_the_record_says(kd_bench, finished):
    for folder in finished:
        accuracy = read_record(folder).accuracy.last
        code, printed = kd_bench("evaluate", folder / "weights.pt")
        assert (code, printed) == kd_bench("evaluate", folder)
        assert code == 0
        assert f"on synthetic: {accuracy:.2f} % of 24 test images\n" in printed
        assert printed.endswith(f"recorded: {accuracy:.2f} %, equal\n")


@pytest.mark.parametrize("command", [["evaluate"], ["rerun"], ["export", "--to", "net.pt"]])
def test_the_record_of_another_job_is_named(kd_bench, finished, command):
    student, teacher = finished
    shutil.copy(teacher / "result.json", student)
    code, printed = kd_bench(command[0], student, *command[1:])
    assert code == 2
    (line,) = printed.splitlines()
    assert f"{student / 'result.json'} is the record of another job, synthetic/none-" in line
    assert line.endswith("; delete it to run the job again")


def test_elsewhere_model_and_data_are_chosen(kd_bench, finished, tmp_path):
    student, _ = finished
    shutil.copy(student / "weights.pt", tmp_path / "mine.pt")
    code, printed = kd_bench("evaluate", "mine.pt", *MODEL, *IMAGES)
    accuracy = read_record(student).accuracy.last
    assert code == 0
    assert printed == f"resnet8_half on synthetic: {accuracy:.2f} % of 24 test images\n"


def test_beside_a_record_another_data_set_may_be_chosen(kd_bench, finished):
    student, _ = finished
    more = [choice.replace("test=24", "test=48") for choice in IMAGES]
    code, printed = kd_bench("evaluate", student / "weights.pt", *more)
    assert code == 0
    assert printed.startswith("resnet8_half on synthetic: ")
    assert "of 48 test images" in printed
    assert "recorded" not in printed


def test_an_accuracy_that_is_not_the_records_is_told(kd_bench, finished):
    student, _ = finished
    record = read_record(student)
    last = record.accuracy.last
    rewrite_record(student, accuracy=to_plain(record.accuracy) | {"last": last - 1.5})
    _, printed = kd_bench("evaluate", student / "weights.pt")
    assert f"recorded: {last - 1.5:.2f} %, +1.50 points now" in printed
    rewrite_record(student, data_fingerprint="other")
    _, printed = kd_bench("evaluate", student / "weights.pt")
    assert "of other images: the data have changed since" in printed


def test_weights_that_are_not_the_records_are_refused(kd_bench, finished):
    student, teacher = finished
    shutil.copy(teacher / "weights.pt", student / "weights.pt")
    for typed in (["evaluate", student], ["export", student, "--to", "x.pt"]):
        code, printed = kd_bench(*typed)
        assert (code, printed.count("\n")) == (2, 1), printed
        assert "weights.pt is not the file that its record vouches for" in printed


def test_a_model_of_ones_own_is_found_with_config_dir(kd_bench, finished, tmp_path):
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


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ([], "the following arguments are required: CHECKPOINT; usage: kd-bench evaluate"),
        (["no.pt"], "there is no file no.pt"),
        (["mine.pt"], "name what it is: add model=NAME dataset=NAME"),
        (["mine.pt", "model=resnet20"], "name what it is: add dataset=NAME"),
        (["mine.pt", "model=[resnet8,resnet20]", "dataset=digits"], "choose one; -m model="),
        (["mine.pt", "model=resnet21", "dataset=digits"], "unknown model 'resnet21'; choose from "),
        (["mine.pt", *MODEL, "dataset=digits"], "fc.weight is (4, 16) in the file and (10, 16)"),
        (["mine.pt", *MODEL, "dataset=cifar10"], "dataset.download=true"),
        (["WEIGHTS", "dataset.pad=1"], "name what it is: add model=NAME dataset=NAME"),
        (["bad.pt", *MODEL, *IMAGES], "bad.pt is no checkpoint of tensors alone"),
    ],
    ids=str,
)
def test_a_mistake_is_answered_in_one_line(kd_bench, finished, tmp_path, typed, answer):
    student, _ = finished
    shutil.copy(student / "weights.pt", tmp_path / "mine.pt")
    torch.save({"model": shutil.rmtree}, tmp_path / "bad.pt")
    words = (student / "weights.pt" if word == "WEIGHTS" else word for word in typed)
    code, printed = kd_bench("evaluate", *words)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
