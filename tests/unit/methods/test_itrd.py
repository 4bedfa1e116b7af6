"""ITRD: both terms by hand, compared with slow loops, and in their limits."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.maps import without_adapter
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.itrd import InformationTransfer, mutual_distance

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})
EQUAL = context_of({"pooled": (5,)}, {"pooled": (5,)})


def make(context: LossContext = CONTEXT, power: float = 1.5) -> InformationTransfer:
    torch.manual_seed(0)
    return InformationTransfer(context, power)


def plain(power: float = 1.5) -> InformationTransfer:
    return without_adapter(make(EQUAL, power), "embedding")


def terms(loss: InformationTransfer, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    both = output_of(pooled=student), output_of(pooled=teacher)
    return loss(*both, batch_of(CONTEXT, len(student)))


def test_a_correlation_by_hand():
    # Two images: the first channel increases in both networks (r = 1, times (2 - 1) / 2), the
    # second decreases in one (-1/2): (1/2)^3 + (3/2)^3 = 3.5 at power 1.5
    student, teacher = torch.tensor([[0.0, 5.0], [1.0, 9.0]]), torch.tensor([[2.0, 3.0], [4.0, 1]])
    assert terms(plain(), student, teacher)["correlation"].item() == pytest.approx(math.log2(3.5))


def test_the_smallest_correlation_term_depends_on_the_batch_size():
    # r = (B - 1) / B in all five channels: log2(5 / 6^3)
    x = rand(6, 5)
    value = terms(plain(), x, 3 * x + 1)["correlation"].item()
    assert value == pytest.approx(math.log2(5 / 6**3))


def test_correlations_match_a_slow_loop():
    loss = make().double()
    student, teacher = rand(7, 3), rand(7, 5, seed=1)
    embedded = loss.embedding(student)
    total = 0.0
    for c in range(5):
        s, t = embedded[:, c], teacher[:, c]
        s, t = ((x - x.mean()) / x.std() for x in (s, t))
        total += (1 - sum(a * b for a, b in zip(s, t, strict=True)).item() / 7) ** 3
    value = terms(loss, student, teacher)["correlation"].item()
    assert value == pytest.approx(math.log2(total))


def test_a_mutual_distance_by_hand():
    # Equal directions in the student: G_s = [[1, 1], [1, 1]] / 2, |.|^2 = 1. Right angles in the
    # teacher: G_s * G_t = 1 / 2 on the diagonal, |.|^2 = 1/2
    student, teacher = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0, 0.0], [0.0, 7.0]])
    assert mutual_distance(student, teacher).item() == pytest.approx(0.5)


def test_the_mutual_distance_to_a_constant_teacher_is_zero():
    student, teacher = rand(6, 4), torch.ones(6, 5).double()
    assert mutual_distance(student, teacher).item() == pytest.approx(0, abs=1e-12)


def test_the_mutual_distance_ignores_lengths_and_rotations():
    student, teacher = rand(6, 4), rand(6, 5, seed=1)
    turned = student @ torch.linalg.qr(rand(4, 4, seed=2))[0] * (1 + torch.arange(6.0)[:, None])
    torch.testing.assert_close(mutual_distance(turned, teacher), mutual_distance(student, teacher))


def test_the_mutual_term_uses_the_embedding_only_if_widths_differ():
    student, teacher = rand(6, 5), rand(6, 5, seed=1)
    value = terms(make(EQUAL).double(), student, teacher)["mutual"]
    torch.testing.assert_close(value, mutual_distance(student, teacher))
    loss = make().double()
    value = terms(loss, student[:, :3], teacher)["mutual"]
    torch.testing.assert_close(value, mutual_distance(loss.embedding(student[:, :3]), teacher))


def test_a_single_image_is_finite():
    # Without a correlation: log2 of five ones. |G|^2 is 1 in both.
    value = terms(make(), torch.ones(1, 3), torch.ones(1, 5))
    assert value["correlation"].item() == pytest.approx(math.log2(5))
    assert value["mutual"].item() == pytest.approx(0, abs=1e-6)


def test_a_power_of_zero_is_refused():
    with pytest.raises(UserError, match="power must be a number above 0, got 0"):
        make(power=0.0)
