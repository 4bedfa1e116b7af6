"""CC, the paper's and RepDistiller's: values by hand, the kernel's limit, collapse."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import nn

from kd_bench.interfaces import UserError
from kd_bench.methods.cc import CorrelationCongruence, NeighbourCorrelation, taylor_gaussian

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})
MAKERS = [
    lambda context: CorrelationCongruence(context, gamma=0.4, order=2),
    lambda context: NeighbourCorrelation(context, channels=6),
]


def value(loss, student: torch.Tensor, teacher: torch.Tensor) -> float:
    output = loss(
        output_of(pooled=student), output_of(pooled=teacher), batch_of(CONTEXT, len(student))
    )
    return output.item()


# --- the paper's ------------------------------------------------------------------------------


def test_two_different_images_against_two_equal_ones():
    # gamma 1/2: K = (1 + c + c^2 / 2) / e. On the diagonal c = 1, so 2.5 / e in both
    # networks; off it, 1 / e in the student (c = 0) and 2.5 / e in the teacher (c = 1).
    # Two of four pairs differ by 1.5 / e: (1.5 / e)^2 / 2
    loss = CorrelationCongruence(CONTEXT, gamma=0.5, order=2)
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    teacher = torch.tensor([[1.0, 0.0], [5.0, 0.0]])
    assert value(loss, student, teacher) == pytest.approx((1.5 / math.e) ** 2 / 2, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.4, 2.0])
def test_the_series_converges_to_the_gaussian_kernel(gamma):
    x = torch.nn.functional.normalize(rand(5, 3), dim=1)
    exact = torch.tensor([[math.exp(-gamma * float((a - b).square().sum())) for b in x] for a in x])
    torch.testing.assert_close(taylor_gaussian(x, gamma, order=30).float(), exact)


def test_order_two_truncates_after_the_square():
    # At gamma 0.4 the next term is exp(-0.8) 0.8^3 / 6 c^3 = 0.0383 c^3: the error for c = 1
    one = torch.ones(1, 1)
    assert 1 - taylor_gaussian(one, 0.4, 2).item() == pytest.approx(0.0474, abs=1e-4)
    assert 1 - taylor_gaussian(one, 0.4, 3).item() == pytest.approx(0.0474 - 0.0383, abs=1e-4)


def test_it_is_invariant_to_the_length_of_features():
    student = rand(4, 3)
    stretched = student * torch.tensor([[1.0], [2], [30], [0.4]])
    assert value(MAKERS[0](CONTEXT), stretched, student) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("gamma", "order", "message"),
    [(0.0, 2, "gamma must be a number above 0, got 0.0"), (0.4, 0, "order must be 1 or more")],
)
def test_invalid_kernel_hyperparameters_are_refused(gamma, order, message):
    with pytest.raises(UserError, match=message):
        CorrelationCongruence(CONTEXT, gamma, order)


# --- RepDistiller's ---------------------------------------------------------------------------


def unembedded() -> NeighbourCorrelation:
    loss = NeighbourCorrelation(CONTEXT, channels=2)
    loss.student = loss.teacher = nn.Identity()
    return loss


def test_gaps_of_neighbours_are_multiplied():
    # Gaps [1, 0], [0, 2], [3, 3]: inner products with the next 0 and 2 * 3 = 6, mean 3
    student = torch.tensor([[1.0, 0.0], [0.0, 4.0], [-3.0, 3.0]])
    teacher = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    assert value(unembedded(), student, teacher) == 3


def test_a_single_image_has_no_neighbour():
    assert value(unembedded(), torch.ones(1, 2), torch.zeros(1, 2)) == 0


def test_constant_embeddings_have_zero_loss():
    # The collapse mentioned in the docstring: nothing in this loss prevents it.
    loss = MAKERS[1](CONTEXT)
    for parameter in loss.parameters():
        nn.init.constant_(parameter, 0.0)
    assert value(loss, rand(4, 3).float(), rand(4, 5).float()) == 0


def test_an_embedding_of_no_channels_is_refused():
    with pytest.raises(UserError, match=r"^channels must be a number above 0, got 0"):
        NeighbourCorrelation(CONTEXT, channels=0)
