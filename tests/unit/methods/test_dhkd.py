"""DHKD's loss: values by hand and the definition; its rule is tested in test_rules.py."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import K, batch_of, context_of, output_of, rand
from torch import Tensor, nn

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.dhkd import AuxiliaryHead

CONTEXT = context_of({"pooled": (K,)}, {"pooled": (3,)})


def make(context: LossContext = CONTEXT, temperature: float = 2.0) -> AuxiliaryHead:
    torch.manual_seed(0)
    return AuxiliaryHead(context, temperature, hidden=8, dropout=0.1)


def per_image(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """The loss with an identity as the auxiliary head: its logits are the student's features."""
    loss = make(temperature=temperature)
    loss.head = nn.Identity()
    outputs = output_of(pooled=student), output_of(teacher)
    return loss.per_image(*outputs, batch_of(CONTEXT, len(student)))


def test_a_value_by_hand():
    # One of four differences is 4 ln 3, a sigmoid of 9/10 at T = 2: KL of (1/2, 1/2) from it is
    # log(5/3), since log(1/2) - (log(9/10) + log(1/10)) / 2 = log((1/2) / (3/10)). Times T^2
    student = torch.tensor([[4 * math.log(3), 1.0, 2.0, -5.0]], dtype=torch.double)
    teacher = torch.tensor([[0.0, 1.0, 2.0, -5.0]], dtype=torch.double)
    assert per_image(student, teacher).tolist() == pytest.approx([4 * math.log(5 / 3)])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_it_is_the_divergence_of_each_difference_from_a_fair_coin(temperature):
    student, teacher = 3 * rand(5, K), 3 * rand(5, K, seed=1)
    p = torch.sigmoid((student - teacher) / temperature)
    expected = (0.5 * (0.5 / p).log() + 0.5 * (0.5 / (1 - p)).log()).sum(1) * temperature**2
    torch.testing.assert_close(per_image(student, teacher, temperature), expected)


def test_a_shift_of_all_logits_increases_the_loss():
    logits = rand(3, K)
    assert per_image(logits, logits).tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    assert (per_image(logits + 1, logits) > 0.4).all()


def test_large_differences_count_by_their_size():
    # log cosh x is |x| - log 2 there: T^2 (1e4 / 2T - log 2) for each of four classes
    value = per_image(torch.full((1, K), 1e4), torch.zeros(1, K))
    assert value.item() == pytest.approx(4 * K * (1e4 / 4 - math.log(2)), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [((0, 8, 0.1), "temperature"), ((2.0, 0, 0.1), "hidden"), ((2.0, 8, 1.0), "dropout")],
)
def test_a_number_out_of_range_is_refused(values, message):
    with pytest.raises(UserError, match=f"^{message} must be"):
        AuxiliaryHead(CONTEXT, *values)
