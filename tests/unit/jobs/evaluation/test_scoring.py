"""Metrics of logits compared with values by hand, scikit-learn's and SciPy's; invariances."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from scipy.special import rel_entr, softmax
from scipy.stats import entropy
from sklearn.metrics import log_loss, recall_score, top_k_accuracy_score
from torch.nn import functional as F

from kd_bench.jobs.evaluation import scoring
from kd_bench.jobs.evaluation.scoring import StudentLogits, measure


def logits_of(*probabilities):
    return torch.tensor(probabilities).log()


def random_logits(images=500, classes=10, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=random)
    return logits, torch.randint(classes, (images,), generator=random)


# Likelihood and accuracies


def test_the_negative_log_likelihood_by_hand():
    # labels have the probabilities 1/2 and 1/8: (log 2 + log 8) / 2 = 2 log 2
    logits = logits_of([0.5, 0.25, 0.25], [0.125, 0.5, 0.375])
    value = scoring.negative_log_likelihood(logits, torch.tensor([0, 0]))
    assert value == pytest.approx(2 * math.log(2), rel=1e-6)


def test_likelihood_and_accuracies_equal_scikit_learns():
    logits, target = random_logits()
    probabilities, classes = softmax(logits.double().numpy(), 1), range(10)
    assert scoring.negative_log_likelihood(logits, target) == pytest.approx(
        log_loss(target, probabilities, labels=classes)
    )
    assert scoring.top_accuracy(logits, target) == pytest.approx(
        100 * top_k_accuracy_score(target, probabilities, k=5, labels=classes)
    )
    recalls = recall_score(target, logits.argmax(1), labels=classes, average=None)
    assert scoring.class_accuracies(logits, target) == pytest.approx(100 * recalls)


def test_top_5_by_hand():
    # the labels have the largest, the fifth and the sixth largest of seven logits
    logits = torch.arange(7.0).expand(3, 7)
    assert scoring.top_accuracy(logits, torch.tensor([6, 2, 1])) == pytest.approx(100 * 2 / 3)


@pytest.mark.parametrize(("classes", "is_known"), [(5, False), (6, True)])
def test_top_5_needs_more_than_five_classes(classes, is_known):
    logits, target = random_logits(classes=classes)
    assert (scoring.top_accuracy(logits, target) is not None) == is_known


def test_a_class_without_test_images_has_no_accuracy():
    logits = torch.eye(3)[[0, 0, 1]]
    assert scoring.class_accuracies(logits, torch.tensor([0, 1, 1])) == [100.0, 50.0, None]


# Calibration


def test_the_calibration_error_by_hand():
    # Two images with confidence 0.6 in bin 9 (8/15 < 0.6 <= 9/15), one correct: |0.5 - 0.6| = 0.1;
    # two with 0.9 in bin 14, both correct: |1 - 0.9| = 0.1; one with 0.75 in bin 12, wrong:
    # |0 - 0.75|. (2 * 0.1 + 2 * 0.1 + 0.75) / 5 = 0.23
    rows = [[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.1, 0.9], [0.75, 0.25]]
    error = scoring.calibration_error(logits_of(*rows), torch.tensor([0, 1, 0, 1, 1]))
    assert error == pytest.approx(23.0, rel=1e-5)


def test_errors_in_one_bin_cancel_and_those_of_two_bins_add_up():
    # In one bin, 0.95 correct and 0.95 wrong: |0.5 - 0.95|; in two bins, 0.95 correct and 0.55
    # wrong: (|1 - 0.95| + |0 - 0.55|) / 2
    one, two = logits_of([0.95, 0.05], [0.95, 0.05]), logits_of([0.95, 0.05], [0.55, 0.45])
    target = torch.tensor([0, 1])
    assert scoring.calibration_error(one, target) == pytest.approx(45.0, rel=1e-5)
    assert scoring.calibration_error(two, target) == pytest.approx(30.0, rel=1e-5)


def test_the_calibration_error_equals_a_loop_over_bins():
    logits, target = random_logits()
    probabilities = softmax(logits.double().numpy(), 1)
    confidence, is_right = probabilities.max(1), probabilities.argmax(1) == target.numpy()
    error, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(is_right[inside].mean() - confidence[inside].mean())
    assert scoring.calibration_error(logits, target) == pytest.approx(100 * error)


@pytest.mark.parametrize("certain", [0.0, 1e4])
def test_confidences_at_the_ends_are_in_the_first_and_last_bins(certain):
    # one class: confidence 1 and correct; two classes, certain and correct: the same
    logits = torch.tensor([[certain]]) if not certain else torch.tensor([[certain, 0.0]])
    assert scoring.calibration_error(logits, torch.tensor([0])) == 0.0


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_the_temperature_cancels_a_factor_of_calibrated_logits(factor):
    # Of 4 images with probabilities (3/4, 1/4), three are of the first class: T = 1 is optimal.
    logits = factor * logits_of(*[[0.75, 0.25]] * 4)
    temperature = scoring.best_temperature(logits, torch.tensor([0, 0, 0, 1]))
    assert temperature == pytest.approx(factor, rel=1e-3)


def test_no_other_temperature_has_a_smaller_loss():
    logits, target = random_logits(classes=3)
    best = scoring.best_temperature(logits, target)
    at_best = scoring.negative_log_likelihood(logits.double() / best, target)
    others = np.geomspace(0.01, 100, 200)
    losses = [scoring.negative_log_likelihood(logits.double() / t, target) for t in others]
    assert at_best <= min(losses) + 1e-12


def test_without_errors_the_temperature_is_small_but_not_zero():
    assert 0.01 <= scoring.best_temperature(torch.eye(3), torch.arange(3)) < 0.1


# Fidelity


def test_the_divergence_by_hand():
    # (1/2, 1/2) from (1/4, 3/4): (log 2 + log(2/3)) / 2 = log(4/3) / 2; the second image: 0
    teacher, student = logits_of([0.5, 0.5], [0.9, 0.1]), logits_of([0.25, 0.75], [0.9, 0.1])
    value = scoring.divergence(teacher, student)
    assert value == pytest.approx(math.log(4 / 3) / 2 / 2, rel=1e-5)


def test_the_divergence_equals_scipys_from_teacher_to_student():
    (teacher, _), (student, _) = random_logits(seed=1), random_logits(seed=2)
    p, q = (softmax(logits.double().numpy(), 1) for logits in (teacher, student))
    assert scoring.divergence(teacher, student) == pytest.approx(entropy(p, q, axis=1).mean())
    assert rel_entr(p, q).sum(1).mean() != pytest.approx(rel_entr(q, p).sum(1).mean())


def test_agreement_where_the_teacher_errs_by_hand():
    # The teacher is wrong on images 1, 2 and 3; the student agrees on 2, is correct on 1, and makes
    # another error on 3. Image 0 does not count.
    teacher, student = torch.eye(4)[[0, 2, 2, 1]], torch.eye(4)[[0, 1, 2, 2]]
    target = torch.tensor([0, 1, 1, 0])
    assert scoring.agreement_on_errors(teacher, student, target) == pytest.approx(100 / 3)


def test_a_teacher_without_errors_has_no_agreement_on_them():
    assert scoring.agreement_on_errors(torch.eye(3), torch.eye(3), torch.arange(3)) is None


# All metrics


def data_of(target, validation=None):
    splits = {"test": target, "validation": validation}
    return SimpleNamespace(
        **{n: None if t is None else SimpleNamespace(target=t) for n, t in splits.items()}
    )


def test_metrics_that_do_not_apply_are_none():
    logits, target = random_logits(classes=3)
    metrics = measure(StudentLogits(logits, None), None, data_of(target))
    unknown = {name for name, value in vars(metrics).items() if value is None}
    assert unknown == {"top5", "temperature", "ece_scaled", "kl", "teacher_errors"}


def test_the_temperature_is_fitted_only_on_the_validation_images():
    logits, target = random_logits()
    held, held_target = random_logits(seed=3)
    metrics = measure(StudentLogits(logits, held), None, data_of(target, held_target))
    assert metrics.temperature == scoring.best_temperature(held, held_target)
    assert metrics.temperature != pytest.approx(scoring.best_temperature(logits, target), rel=1e-3)
    scaled = logits.double() / metrics.temperature
    assert metrics.ece_scaled == scoring.calibration_error(scaled, target)


@given(strategies.floats(-1e4, 1e4), strategies.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_a_constant_added_to_all_logits_of_an_image_changes_nothing(shift, seed):
    (logits, target), (teacher, _) = random_logits(40, 7, seed), random_logits(40, 7, seed + 1)
    one, other = (
        measure(StudentLogits(student, None), teacher.double(), data_of(target))
        for student in (logits.double(), logits.double() + shift)
    )
    for name in ("nll", "ece", "kl"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-7)


def test_logits_of_any_size_have_finite_metrics():
    logits, target = random_logits()
    metrics = measure(StudentLogits(1e30 * logits, 1e30 * logits), logits, data_of(target, target))
    assert math.isfinite(metrics.nll)
    assert math.isfinite(metrics.kl)
    assert 0 <= metrics.ece <= 100
    assert 0 <= metrics.ece_scaled <= 100


def test_half_precision_clips_logits_beyond_its_range():
    stored = scoring.to_half(torch.tensor([[1e9, 1.5, -1e9]]))
    assert stored.dtype == torch.half
    assert stored.tolist() == [[65504.0, 1.5, -65504.0]]
    assert F.softmax(stored.float(), 1).isfinite().all()
