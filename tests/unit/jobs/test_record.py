"""Fields of a finished job's record besides accuracy: metrics of its logits, teacher images."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.jobs import job, setup_of, trained
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import log_loss

from kd_bench.jobs.record import _teacher_images
from kd_bench.results.record import CHECKSUM, Record
from kd_bench.results.run_folder import TEST_LOGITS, WEIGHTS, read_record
from kd_bench.training import loop
from kd_bench.utils.errors import DamagedError
from kd_bench.utils.files import file_hash


def logits(network, data, split):
    with torch.no_grad():
        return network.eval()(data.eval_batch(split, 0, len(split.target))).logits


def test_the_logits_of_all_test_images_are_stored_and_the_record_has_their_hash(finished):
    for folder in finished:
        record, stored = read_record(folder), folder / TEST_LOGITS
        content = torch.load(stored, weights_only=True)
        assert (content.dtype, tuple(content.shape)) == (torch.half, (24, 4))
        assert record.test_logits_sha256 == file_hash(stored)


def test_the_metrics_are_those_of_the_saved_networks(finished, tmp_path):
    student, teacher = finished
    setup = setup_of(job(tmp_path / "runs", "method=st"))
    setup.student.net.load_state_dict(torch.load(student / WEIGHTS, weights_only=True))
    test, record = setup.data.test, read_record(student)
    mine = logits(setup.student, setup.data, test)
    theirs = logits(setup.teacher.network, setup.data, test)
    p, q = (softmax(each.double().numpy(), 1) for each in (theirs, mine))
    assert record.metrics.nll == pytest.approx(log_loss(test.target, q), rel=1e-5)
    assert record.metrics.kl == pytest.approx(entropy(p, q, axis=1).mean(), rel=1e-4)
    stored = torch.load(student / TEST_LOGITS, weights_only=True)
    torch.testing.assert_close(stored.float(), mine, rtol=1e-3, atol=1e-3)
    is_right = mine.argmax(1) == test.target
    assert record.accuracy.last == pytest.approx(100 * is_right.double().mean().item())
    shares = [(test.target == k).double().mean().item() for k in range(4)]
    by_class = sum(s * a for s, a in zip(shares, record.metrics.per_class, strict=True))
    assert by_class == pytest.approx(record.accuracy.last)
    assert read_record(teacher).metrics.kl is None


@pytest.mark.slow
def test_with_validation_images_there_is_a_scaled_calibration_error(tmp_path):
    record, _ = trained(job(tmp_path, "method=baseline", "dataset.validation=10"))
    assert record.metrics.temperature > 0
    assert record.metrics.ece_scaled is not None


@pytest.mark.slow
def test_a_student_is_compared_with_the_final_weights_of_a_teacher_that_learns(tmp_path):
    record, _ = trained(job(tmp_path, "method=dml"))
    assert record.metrics.kl >= 0
    assert record.teacher.folder is None


@pytest.mark.slow
def test_test_logits_take_one_more_pass_over_the_test_images(tmp_path, monkeypatch):
    the_job = job(tmp_path, "method=st")
    trained(the_job.teacher)
    passes, answers = [], loop._answers

    def watch(net, *rest):
        passes.append(net)
        return answers(net, *rest)

    monkeypatch.setattr(loop, "_answers", watch)
    trained(the_job)
    teacher, *student = passes
    assert len(student) == 2 + 1  # epochs
    assert set(student) == {student[0]} != {teacher}


# 40 images, 2 epochs of 16 + 16 + 8; sskd has an epoch of the init phase, and three rotations


@pytest.mark.parametrize(
    ("typed", "images"),
    [
        (["method=baseline"], 0),
        (["method=st"], 2 * 40),
        (["method=st", "recipe.drop_last=true"], 2 * 32),
        (["method=sskd"], (1 + 2) * 40 * 4),
        (["method=nd"], 2 * 40 + 40),
        (["method=dml"], 2 * 40),
        (["method=ensemble_teacher", "method.ensemble.size=2"], 2 * 40 * 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_number_of_images_passed_through_the_teacher(runs, typed, images):
    assert _teacher_images(setup_of(job(runs, *typed))) == images


@pytest.mark.slow
def test_a_cache_is_filled_with_every_view_once(runs):
    setup = setup_of(job(runs, "method=st", "teacher.source=table"))
    assert _teacher_images(setup) == 40 * setup.data.view_count


# Records of older versions


def test_an_older_record_without_metrics_can_be_read(finished):
    plain = json.loads((finished[0] / "result.json").read_text())
    for name in ("metrics", "test_logits_sha256", "teacher_images", CHECKSUM):
        del plain[name]
    record = Record.from_json(plain)
    assert (record.metrics, record.test_logits_sha256, record.teacher_images) == (None, None, None)
    assert Record.from_json(record.to_json()) == record


def test_a_record_with_invalid_metrics_is_damaged(finished):
    plain = read_record(finished[0]).to_json()
    del plain[CHECKSUM]
    with pytest.raises(DamagedError, match="is not a valid record"):
        Record.from_json(plain | {"metrics": {"nll": 1}})
