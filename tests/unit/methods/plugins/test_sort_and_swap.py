"""Corrected teachers: sorted and swapped logits by hand, and the relation of the two."""

import pytest
import torch
from helpers.logit_losses import labelled
from helpers.outputs import rand

from kd_bench.methods.plugins.sort import with_label_first
from kd_bench.methods.plugins.swap import swapped

BOTH = pytest.mark.parametrize("correct", [with_label_first, swapped])
LOGITS = 3.0 * rand(40, 7)
TARGET = labelled(*(i % 7 for i in range(40))).target


def test_values_by_hand():
    # Label 2: 9 > 7 > 5 > 1. Sorting moves 9 and 7 down by one rank, swapping exchanges 9 and 5
    logits, target = torch.tensor([[7.0, 9.0, 5.0, 1.0]]), torch.tensor([2])
    assert with_label_first(logits, target).tolist() == [[5.0, 7.0, 9.0, 1.0]]
    assert swapped(logits, target).tolist() == [[7.0, 5.0, 9.0, 1.0]]


@BOTH
def test_the_corrected_teacher_is_correct_with_the_same_set_of_logits(correct):
    found = correct(LOGITS, TARGET)
    assert torch.equal(found.argmax(1), TARGET)
    assert torch.equal(found.sort(1).values, LOGITS.sort(1).values)


@BOTH
def test_a_correct_teacher_is_not_changed(correct):
    is_right = LOGITS.argmax(1) == TARGET
    assert is_right.any()
    assert torch.equal(correct(LOGITS, TARGET)[is_right], LOGITS[is_right])


@BOTH
def test_correcting_twice_is_the_same_as_once(correct):
    once = correct(LOGITS, TARGET)
    assert torch.equal(correct(once, TARGET), once)


@BOTH
def test_equal_logits_stay_equal(correct):
    logits = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 0.0]])
    assert torch.equal(correct(logits, torch.tensor([2, 1])), logits)


def test_sorting_keeps_the_order_of_all_other_classes():
    found = with_label_first(LOGITS, TARGET)
    for before, after, label in zip(LOGITS.tolist(), found.tolist(), TARGET.tolist(), strict=True):
        others = [k for k in range(7) if k != label]
        order = sorted(others, key=lambda k: before[k])
        assert order == sorted(others, key=lambda k: after[k])


def test_both_are_the_same_if_the_label_is_second_or_there_are_two_classes():
    ranks = LOGITS.argsort(1, descending=True).argsort(1)
    is_second = ranks.gather(1, TARGET[:, None])[:, 0] == 1
    both = with_label_first(LOGITS, TARGET), swapped(LOGITS, TARGET)
    assert is_second.any()
    assert torch.equal(*(each[is_second] for each in both))
    two, target = rand(10, 2), torch.arange(10) % 2
    assert torch.equal(with_label_first(two, target), swapped(two, target))
