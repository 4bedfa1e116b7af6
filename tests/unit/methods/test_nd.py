"""ND loss: values by hand, class centres, and the effects of length and direction."""

from __future__ import annotations

import pytest
import torch
from helpers.outputs import (
    batch_of,
    context_of,
    has_finite_value_and_gradient,
    output_of,
    passes_gradcheck,
    rand,
)
from torch import Tensor, nn

from kd_bench.interfaces import LossContext
from kd_bench.methods.nd import NormAndDirection

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (3,)})
NARROW = context_of({"pooled": (2,)}, {"pooled": (3,)})


def make(context: LossContext = CONTEXT) -> NormAndDirection:
    torch.manual_seed(0)
    loss = NormAndDirection(context)
    loss.centre.copy_(nn.functional.normalize(torch.randn(loss.centre.shape), dim=1))
    return loss


def per_image(loss: NormAndDirection, student: Tensor, teacher: Tensor) -> Tensor:
    outputs = output_of(pooled=student), output_of(pooled=teacher)
    return loss.per_image(*outputs, batch_of(CONTEXT, len(student)))


def test_values_by_hand():
    # Centres (0, 3, 4) / 5 and (1, 0, 0). Image 0: (0, 3, 4) along the first is 5, over max(5, 10)
    # is 1/2. Image 1: (3, 4, 0) along the second is 3, over max(5, 1) is 3/5
    loss = make()
    loss.centre[0], loss.centre[1] = torch.tensor([0.0, 0.6, 0.8]), torch.tensor([1.0, 0.0, 0.0])
    student = torch.tensor([[0.0, 3.0, 4.0], [3.0, 4.0, 0.0]])
    teacher = torch.tensor([[10.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert per_image(loss, student, teacher).tolist() == pytest.approx([0.5, 0.4])


def test_a_centre_is_the_direction_of_the_mean_over_the_images_of_its_class():
    loss = make()
    features, target = rand(7, 3), torch.tensor([0, 1, 2, 3, 0, 1, 0])
    outputs = [(output_of(pooled=features[i : i + 3]), target[i : i + 3]) for i in (0, 3, 6)]
    loss.prepare(iter(outputs))
    for label in range(4):
        mean = features[target == label].mean(0)
        torch.testing.assert_close(loss.centre[label].double(), mean / mean.norm())


def test_a_length_beyond_the_teachers_has_no_effect():
    loss = make().double()
    teacher = rand(4, 3, seed=1)
    longer = 3 * teacher.norm(dim=1, keepdim=True) * nn.functional.normalize(rand(4, 3), dim=1)
    torch.testing.assert_close(
        per_image(loss, 2 * longer, teacher), per_image(loss, longer, teacher)
    )
    shorter = longer / 10
    gained = 1 - per_image(loss, 2 * shorter, teacher)
    torch.testing.assert_close(gained, 2 * (1 - per_image(loss, shorter, teacher)))


def test_a_feature_of_the_teachers_length_in_its_centres_direction_has_zero_loss():
    loss = make().double()
    teacher = rand(4, 3)
    loss.centre.copy_(nn.functional.normalize(rand(4, 3, seed=1), dim=1))
    student = loss.centre * teacher.norm(dim=1, keepdim=True)
    assert per_image(loss, student, teacher).tolist() == pytest.approx([0.0] * 4, abs=1e-12)


def test_only_features_of_another_width_are_projected():
    assert [tuple(p.shape) for p in make(NARROW).parameters()] == [(3, 2), (3,)]
    assert not list(make().parameters())


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("context", [CONTEXT, NARROW])
def test_it_stays_finite(context, scale):
    assert has_finite_value_and_gradient(make(context), context, scale)


def test_zero_features_have_the_largest_loss():
    loss = make()
    student = torch.zeros(2, 3, requires_grad=True)
    value = per_image(loss, student, torch.zeros(2, 3))
    value.sum().backward()
    assert value.tolist() == [1.0, 1.0]
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("context", [CONTEXT, NARROW])
def test_it_passes_gradcheck(context):
    assert passes_gradcheck(make(context), context)
