"""Entropy-adaptive weights: values by hand, equal entropies, no gradient, published variant."""

import math

import pytest
import torch
from helpers.logit_losses import context, labelled, probabilities
from helpers.logit_plugins import build, one, terms
from helpers.outputs import rand

from kd_bench.interfaces import LogitPair, UserError
from kd_bench.methods.plugins.ea import EntropyAdaptive, EntropyAdaptiveAsPublished, entropy

BATCH = labelled(0, 1)
LN2 = math.log(2)


def weights(kind, classes, student, teacher, temperature=1.0):
    pair = LogitPair(student, teacher)
    return one(kind(context(classes), temperature), pair, BATCH).weight.tolist()


def test_entropies_by_hand():
    rows = probabilities([0.5, 0.5, 1e-300, 1e-300], [0.25] * 4, [0.5, 0.25, 0.125, 0.125])
    # 1/2 ln 2 + 1/4 ln 4 + 2/8 ln 8
    assert entropy(rows).tolist() == pytest.approx([LN2, 2 * LN2, 1.75 * LN2])


def test_weights_by_hand():
    # Four classes, log K = 2 ln 2. Teacher ln 2, student 2 ln 2: (ln 2 + ln 2 * 1) / 2 = ln 2.
    # Teacher 2 ln 2, student 1.75 ln 2: (2 + 2 * 1.75 / 2) / 2 ln 2 = 1.875 ln 2
    student = probabilities([0.25] * 4, [0.5, 0.25, 0.125, 0.125])
    teacher = probabilities([0.5, 0.5, 1e-300, 1e-300], [0.25] * 4)
    found = weights(EntropyAdaptive, 4, student, teacher)
    assert found == pytest.approx([LN2, 1.875 * LN2])
    # as published, with K in place of log K: (ln 2 + ln 2 * 2 ln 2 / 4) / 2
    found = weights(EntropyAdaptiveAsPublished, 4, student, teacher)
    assert found[0] == pytest.approx((LN2 + LN2**2 / 2) / 2)


def test_the_temperature_softens_both_predictions():
    student, teacher = rand(2, 4), rand(2, 4, seed=1)
    found = weights(EntropyAdaptive, 4, student, teacher, temperature=3.0)
    assert found == weights(EntropyAdaptive, 4, student / 3, teacher / 3)


@pytest.mark.parametrize("method", ["st", "dkd"])
def test_equal_entropies_give_a_constant_times_the_plain_loss(method):
    # Each image has the same logits in another order, and so the same entropy
    row_s, row_t = rand(10), rand(10, seed=1)
    student = torch.stack([row_s.roll(i) for i in range(4)])
    teacher = torch.stack([row_t.roll(3 * i) for i in range(4)])
    batch = labelled(0, 1, 2, 3)
    plain = terms(build(method, context(10)).double(), student, teacher, batch)
    weighted = terms(build(method, context(10), "ea").double(), student, teacher, batch)
    h_s, h_t = (entropy(row[None] / 3).item() for row in (row_s, row_t))
    constant = (h_t + h_t * h_s / math.log(10)) / 2
    for name, term in plain.items():
        torch.testing.assert_close(weighted[name], term * (1 if name == "ce" else constant))


def test_weights_for_certain_and_for_uniform_predictions():
    sure, none = 100.0 * torch.eye(4)[:2], torch.zeros(2, 4)
    assert weights(EntropyAdaptive, 4, none, sure) == pytest.approx([0.0, 0.0])
    assert weights(EntropyAdaptive, 4, none, none) == pytest.approx([math.log(4)] * 2)
    assert weights(EntropyAdaptive, 4, sure, none) == pytest.approx([math.log(4) / 2] * 2)


def test_the_weight_has_no_gradient():
    student, teacher = rand(2, 4).requires_grad_(), rand(2, 4, seed=1)
    pair = one(EntropyAdaptive(context(4), 3.0), LogitPair(student, teacher), BATCH)
    assert not pair.weight.requires_grad
    assert pair.student is student


def test_a_temperature_that_is_not_above_zero_is_refused():
    with pytest.raises(UserError, match="temperature"):
        EntropyAdaptive(context(4), 0.0)
