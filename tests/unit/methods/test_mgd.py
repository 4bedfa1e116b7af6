"""MGD: a value by hand, the masks, and generation from the unmasked channels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.maps import without_adapter
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.mgd import MaskedGeneration

CONTEXT = context_of({"stage3": (2, 4, 4)}, {"stage3": (3, 2, 2)})
BATCH = batch_of(CONTEXT, 1)  # not read by the loss
EQUAL = context_of({"stage3": (3, 2, 2)}, {"stage3": (3, 2, 2)})


def make(context: LossContext = CONTEXT, masked: float = 0.5) -> MaskedGeneration:
    torch.manual_seed(0)
    return MaskedGeneration(context, "stage3", masked)


def per_image(loss: MaskedGeneration, student: Tensor, teacher: Tensor) -> Tensor:
    return loss.per_image(output_of(stage3=student), output_of(stage3=teacher), BATCH)


def test_squares_are_summed_over_an_image():
    # 12 errors of 1 and 12 of 2, without a mask and a generator
    loss = without_adapter(make(EQUAL, masked=0.0), "generate")
    student = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    assert per_image(loss, student, torch.zeros(2, 3, 2, 2)).tolist() == [12, 48]


def test_without_masks_it_is_two_convolutions_of_the_aligned_pooled_map():
    loss = make(masked=0.0).double()
    student, teacher = rand(5, 2, 4, 4), rand(5, 3, 2, 2, seed=1)
    first, second = loss.generate[0], loss.generate[2]
    x = F.conv2d(F.avg_pool2d(student, 2), loss.align.weight, loss.align.bias)
    x = F.conv2d(x, first.weight, first.bias, padding=1).relu()
    x = F.conv2d(x, second.weight, second.bias, padding=1)
    expected = (x - teacher).square().sum((1, 2, 3))
    torch.testing.assert_close(per_image(loss, student, teacher), expected)


def test_equal_channels_need_no_alignment():
    assert not list(make(EQUAL).align.parameters())
    assert len(list(make().align.parameters())) == 2


def masks(loss: MaskedGeneration, features: Tensor) -> Tensor:
    """2 for unmasked and 0 for masked features of ones: the gradient of squares against zero."""
    loss = without_adapter(loss, "generate")
    (pull,) = torch.autograd.grad(
        per_image(loss, features.requires_grad_(), torch.zeros_like(features)).sum(), features
    )
    return pull


def test_whole_channels_are_masked_independently_for_each_image():
    # 3000 channels, each masked with probability 0.3: five standard deviations are 125.
    ones = torch.ones(1000, 3, 2, 2)
    left = masks(make(EQUAL, masked=0.3), ones).flatten(2)
    assert torch.equal(left, left[:, :, :1].expand_as(left))
    assert set(left.flatten().tolist()) == {0.0, 2.0}  # the gradient of a square at 0 and at 1
    assert abs((left[:, :, 0] == 0).sum().item() - 900) < 5 * math.sqrt(3000 * 0.3 * 0.7)
    assert len(left[:, :, 0].unique(dim=0)) == 8  # all combinations of three channels


def test_new_masks_are_drawn_in_every_step_from_the_global_generator():
    loss, features = make(EQUAL), torch.ones(20, 3, 2, 2)
    torch.manual_seed(3)
    first, second = masks(loss, features.clone()), masks(loss, features.clone())
    torch.manual_seed(3)
    assert torch.equal(masks(loss, features.clone()), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("masked", [-0.1, 1.0, 1.5])
def test_a_share_out_of_range_is_refused(masked):
    with pytest.raises(UserError, match="masked must be at least 0 and below 1, got"):
        make(masked=masked)
