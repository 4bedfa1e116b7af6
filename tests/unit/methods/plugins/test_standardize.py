"""Logit standardization: values by hand, invariance, and logits that are all equal."""

import math

import pytest
import torch
from helpers.logit_losses import context, labelled
from helpers.logit_plugins import build, one, pair_of, terms
from helpers.outputs import rand

from kd_bench.interfaces import LogitPair
from kd_bench.methods.plugins.standardize import Standardize

BATCH = labelled(0, 1, 2)


def standardized(pair: LogitPair) -> LogitPair:
    return one(Standardize(context(10)), pair, BATCH)


def test_values_by_hand():
    # 1, 3, 5, 7 has mean 4 and variance (9 + 1 + 1 + 9) / 4 = 5
    pair = standardized(pair_of([[1, 3, 5, 7]], [[-1, 1, -1, 1]]))
    by_hand = [x / math.sqrt(5) for x in (-3, -1, 1, 3)]
    assert pair.student.tolist()[0] == pytest.approx(by_hand)
    assert pair.teacher.tolist()[0] == pytest.approx([-1, 1, -1, 1])


def test_the_loss_is_invariant_to_shift_and_positive_scale_of_either_network():
    method = build("dkd", context(10), "standardize").double()
    student, teacher = rand(3, 10), rand(3, 10, seed=1)
    before = terms(method, student, teacher, BATCH)
    shift, scale = rand(3, 1, seed=2), rand(3, 1, seed=3).exp()
    after = terms(method, student * scale + shift, 5 * teacher - 7, BATCH)
    for name in ("dkd/target", "dkd/rest"):
        torch.testing.assert_close(after[name], before[name])


def test_the_gradient_changes_neither_mean_nor_standard_deviation_of_the_logits():
    method = build("st", context(10), "standardize").double()
    student = rand(3, 10).requires_grad_()
    loss = terms(method, student, rand(3, 10, seed=1), BATCH)["st"]
    (gradient,) = torch.autograd.grad(loss, student)
    centred = student - student.mean(1, keepdim=True)
    zeros = torch.zeros(3, dtype=torch.double)
    torch.testing.assert_close(gradient.sum(1), zeros)
    torch.testing.assert_close((gradient * centred).sum(1), zeros)


def test_equal_logits_become_zeros():
    pair = standardized(pair_of([[2, 2, 2]], [[0, 0, 0]]))
    assert not pair.student.any()
    assert not pair.teacher.any()
