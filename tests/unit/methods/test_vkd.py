"""VkD: an orthogonal matrix from any parameters, and a distance by hand."""

from __future__ import annotations

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import nn

from kd_bench.interfaces import LossContext
from kd_bench.methods.vkd import OrthogonalDistillation, OrthogonalProjection

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})


def make(context: LossContext = CONTEXT) -> OrthogonalDistillation:
    torch.manual_seed(0)
    return OrthogonalDistillation(context)


def projection(channels_in: int, channels: int, scale: float = 1.0) -> OrthogonalProjection:
    """A projection with random parameters, as in the middle of training."""
    module = OrthogonalProjection(channels_in, channels).double()
    module.below.data = scale * rand(*module.below.shape)
    return module


# --- the projection ---------------------------------------------------------------------------


def test_a_reflection_by_hand():
    # v = (1, 2): the first column of 1 - 2 v v^T / 5 is (1 - 2/5, -4/5)
    module = OrthogonalProjection(1, 2)
    module.below.data = torch.tensor([[7.0], [2.0]])  # the 7 is not below the diagonal
    assert module.weight.flatten().tolist() == pytest.approx([0.6, -0.8])


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 6), (1, 1)])
def test_it_is_the_product_of_reflections(shape):
    module = projection(*shape)
    tall, narrow = module.below.shape
    product = torch.eye(tall, dtype=torch.double)
    for i in range(narrow):
        v = torch.zeros(tall, dtype=torch.double)
        v[i], v[i + 1 :] = 1, module.below[i + 1 :, i]
        product = product @ (torch.eye(tall) - 2 * torch.outer(v, v) / v.dot(v))
    expected = product[:, :narrow]
    torch.testing.assert_close(module.weight, expected.T if shape[0] > shape[1] else expected)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_inner_products_are_preserved_if_the_teacher_is_at_least_as_wide(scale):
    x = rand(6, 16, seed=1)
    for channels in (16, 40):
        projected = projection(16, channels, scale)(x)
        torch.testing.assert_close(projected @ projected.T, x @ x.T)


def test_a_wider_student_is_projected_onto_orthonormal_directions():
    weight = projection(40, 16).weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(16).double())


def test_it_stays_orthogonal_in_single_precision():
    weight = OrthogonalProjection(64, 256).weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(64), atol=1e-5, rtol=0)


def test_its_initialization_has_no_preferred_direction():
    # E[Q_ij^2] = 1 / n for an orthogonal Q without a preferred direction. The standard deviation of
    # a squared entry is below 0.25, so that of the mean of 500 is 0.011.
    torch.manual_seed(0)
    squares = torch.stack([OrthogonalProjection(3, 5).weight.square() for _ in range(500)])
    torch.testing.assert_close(squares.mean(0), torch.full((5, 3), 0.2), atol=0.06, rtol=0)


# --- the loss ---------------------------------------------------------------------------------


def test_a_value_by_hand():
    # The teacher's (1, 3) becomes (-1, 1). Errors of 2.5, beyond 1: 2.5 - 1/2; and 0.4: 0.4^2 / 2
    context = context_of({"pooled": (2,)}, {"pooled": (2,)})
    loss = make(context)
    loss.projection = nn.Identity()
    student, teacher = torch.tensor([[1.5, 1.4]]), torch.tensor([[1.0, 3.0]])
    batch = batch_of(context, 1)
    value = loss.per_image(output_of(pooled=student), output_of(pooled=teacher), batch)
    assert value.item() == pytest.approx((2.0 + 0.08) / 2, abs=1e-4)


def test_the_teachers_offset_and_scale_change_nothing():
    loss, student, teacher = make().double(), rand(4, 3), 10 * rand(4, 5, seed=1)
    change = torch.tensor([[1.0], [2.0], [30.0], [4.0]]).double()
    batch = batch_of(CONTEXT, 4)
    once, again = (
        loss.per_image(output_of(pooled=student), output_of(pooled=x), batch)
        for x in (teacher, change * teacher + 7)
    )
    torch.testing.assert_close(once, again, rtol=1e-4, atol=1e-6)  # layer norm has an epsilon
