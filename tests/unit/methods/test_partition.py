"""Groups of classes: probabilities by hand, and groups without classes."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_losses import probabilities
from helpers.outputs import rand

from kd_bench.methods.common.partition import (
    is_class,
    kl_between,
    kl_within,
    log_split,
    log_within,
    top_classes,
)

FIRST_TWO = torch.tensor([[True, True, False]])


def test_the_mask_of_a_class():
    mask = is_class(torch.tensor([2, 0]), torch.zeros(2, 3))
    assert mask.tolist() == [[False, False, True], [True, False, False]]


def test_top_classes():
    logits = torch.tensor([[1.0, 4.0, 3.0, 2.0]])
    assert top_classes(logits, 1).tolist() == [[False, True, False, False]]
    assert top_classes(logits, 3).tolist() == [[False, True, True, True]]


def test_classes_that_tie_with_the_last_top_class_are_included():
    logits = torch.tensor([[2.0, 1.0, 3.0, 2.0]])
    assert top_classes(logits, 2).tolist() == [[True, False, True, True]]


def test_the_probabilities_of_a_group_and_the_rest():
    split = log_split(probabilities([0.5, 0.2, 0.3]), FIRST_TWO).exp()
    assert split[0].tolist() == pytest.approx([0.7, 0.3])


def test_probabilities_within_a_group():
    within = log_within(probabilities([0.5, 0.3, 0.2]), FIRST_TWO)
    assert within[0].tolist() == pytest.approx([math.log(5 / 8), math.log(3 / 8), 0])


def test_the_probability_of_the_rest_is_exact_if_the_groups_rounds_to_one():
    # log(1 - 1) would be minus infinity; the rest has probability e^-60.
    logits = torch.tensor([[60.0, 0.0]])
    split = log_split(logits, torch.tensor([[True, False]]))
    assert split[0].tolist() == [0.0, -60.0]


def test_other_classes_have_no_effect_within_a_group_of_low_logits():
    logits = torch.tensor([[5000.0, -3000.0, -3000.0]])
    within = log_within(logits, torch.tensor([[False, True, True]])).exp()
    assert within[0, 1:].tolist() == pytest.approx([0.5, 0.5])


def test_the_divergence_is_the_sum_of_those_between_and_within_groups():
    student, teacher = rand(5, 6), rand(5, 6, seed=1)
    group = rand(5, 6, seed=2) > 0
    group[:, 0], group[:, 1] = True, False
    p, q = teacher.softmax(1), student.softmax(1)
    whole = (p * (p / q).log()).sum(1)
    share = (p * group).sum(1)
    parts = kl_between(student, teacher, group)
    parts = parts + share * kl_within(student, teacher, group)
    parts = parts + (1 - share) * kl_within(student, teacher, ~group)
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("count", [0, 3])
def test_a_group_of_no_or_all_classes_has_finite_terms_and_gradients(count):
    group = torch.arange(3)[None] < torch.tensor([[count]])
    student = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    teacher = -student.detach()
    with torch.autograd.set_detect_anomaly(True):
        between = kl_between(student, teacher, group)
        within = kl_within(student, teacher, group), kl_within(student, teacher, ~group)
        (between + sum(within)).sum().backward()
    assert between.item() == 0
    assert within[count == 3].item() == 0  # the empty one
    assert student.grad.isfinite().all()
