"""PAD: the likelihood by hand, its optimal variance, and adaptive weights."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import nn

from kd_bench.methods.pad import PrimeAwareL2

SAME = context_of({"pooled": (2,)}, {"pooled": (2,)})
UNLIKE = context_of({"pooled": (3,)}, {"pooled": (5,)})


def with_variance(*variance: float) -> PrimeAwareL2:
    """The loss with these channel variances for all images."""
    loss = PrimeAwareL2(SAME)
    norm = loss.log_variance[1]
    nn.init.zeros_(norm.weight)
    norm.bias.data = torch.tensor(variance).log()
    return loss


def terms(loss: PrimeAwareL2, student: torch.Tensor, teacher: torch.Tensor) -> dict:
    return loss(output_of(pooled=student), output_of(pooled=teacher), batch_of(SAME, len(student)))


STUDENT = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
TEACHER = torch.tensor([[0.0, 0.0], [3.0, 6.0]])


def test_squares_are_divided_by_the_variance():
    # Squares 1, 4, 0, 4: mean 2.25. With variance 2: 2.25 / 2 + ln 2 = 1.818147
    both = terms(with_variance(2.0, 2.0), STUDENT, TEACHER)
    assert both["l2"].item() == 2.25
    assert both["prime"].item() == pytest.approx(1.125 + math.log(2), abs=1e-5)


def test_each_channel_has_its_own_variance():
    # (1/1 + 4/4 + 0/1 + 4/4) / 4 + (ln 1 + ln 4) / 2
    both = terms(with_variance(1.0, 4.0), STUDENT, TEACHER)
    assert both["prime"].item() == pytest.approx(0.75 + math.log(4) / 2, abs=1e-5)


def test_the_optimal_variance_is_the_mean_square():
    # As for any Gaussian: channel squares average (1 + 0) / 2 and (4 + 4) / 2.
    loss = with_variance(0.5, 4.0)
    terms(loss, STUDENT, TEACHER)["prime"].backward()
    assert loss.log_variance[1].bias.grad.abs().max() < 1e-5


def test_hard_channels_get_a_lower_weight():
    # The gradient of a feature is that of plain L2 divided by its variance.
    student = STUDENT.clone().requires_grad_()
    plain, prime = (
        torch.autograd.grad(terms(with_variance(1.0, 10.0), student, TEACHER)[name], student)[0]
        for name in ("l2", "prime")
    )
    torch.testing.assert_close(prime, plain / torch.tensor([1.0, 10.0]), rtol=1e-5, atol=1e-6)


def test_the_variance_depends_on_the_image():
    loss = PrimeAwareL2(UNLIKE)
    assert loss.log_variance(rand(4, 3).float()).std(0).min() > 0


def test_a_projector_is_used_only_if_widths_differ():
    student, teacher = rand(4, 3).float(), rand(4, 5, seed=1).float()
    loss = PrimeAwareL2(UNLIKE)
    mapped = loss.projector(student)
    torch.testing.assert_close(
        terms(loss, student, teacher)["l2"], (mapped - teacher).square().mean()
    )
    assert not list(PrimeAwareL2(SAME).projector.parameters())


def test_a_single_image_works():
    both = terms(PrimeAwareL2(UNLIKE), torch.ones(1, 3), torch.ones(1, 5))
    assert all(term.isfinite() for term in both.values())
