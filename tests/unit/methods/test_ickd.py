"""ICKD: channel correlations by hand."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import nn

from kd_bench.interfaces import UserError
from kd_bench.methods.ickd import InterChannelCorrelation, channel_correlation

CONTEXT = context_of(
    {"stage1": (2, 2, 2), "stage2": (3, 2, 1), "pooled": (3,)},
    {"stage1": (2, 4, 4), "stage2": (5, 2, 2), "pooled": (5,)},
)
BATCH = batch_of(CONTEXT, 3)


def make(context) -> InterChannelCorrelation:
    return InterChannelCorrelation(context, ["stage1", "stage2"])


def test_the_correlation_of_two_equal_channels_and_a_different_one():
    # Products [[1, 1, 0], [1, 1, 0], [0, 0, 4]], each row over its length
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]).view(1, 3, 1, 2)
    half = math.sqrt(0.5)
    expected = torch.tensor([[[half, half, 0], [half, half, 0], [0, 0, 1]]])
    torch.testing.assert_close(channel_correlation(x), expected)


def test_it_is_the_mean_over_images_and_rows_of_a_squared_distance():
    # Student rows [1, 0] and [0, 1], teacher rows [1, 1] / sqrt(2): 2 - sqrt(2) for each row.
    # Zero for the second image, so half of that; the teacher's map has another size.
    loss = InterChannelCorrelation(CONTEXT, ["stage1"])
    loss.connectors[0] = nn.Identity()
    differ, agree = torch.eye(2).view(1, 2, 1, 2), torch.ones(1, 2, 1, 2)
    student = output_of(stage1=torch.cat([differ, agree]))
    teacher = output_of(stage1=torch.ones(2, 2, 3, 3))
    value = loss(student, teacher, BATCH).item()
    assert value == pytest.approx((2 - math.sqrt(2)) / 2, rel=1e-6)


def test_stages_are_summed_each_with_its_own_connector():
    loss = make(CONTEXT).double()
    student = {"stage1": rand(3, 2, 2, 2), "stage2": rand(3, 3, 2, 1, seed=1)}
    teacher = {"stage1": rand(3, 2, 4, 4, seed=2), "stage2": rand(3, 5, 2, 2, seed=3)}
    expected = 0.0
    for stage, connector in zip(loss.stages, loss.connectors, strict=True):
        s, t = channel_correlation(connector(student[stage])), channel_correlation(teacher[stage])
        expected = expected + (s - t).square().sum() / (3 * len(t[0]))
    torch.testing.assert_close(loss(output_of(**student), output_of(**teacher), BATCH), expected)


def test_it_is_invariant_to_the_order_of_positions():
    loss = InterChannelCorrelation(CONTEXT, ["stage1"]).double()
    student, teacher = rand(3, 2, 2, 2), rand(3, 2, 4, 4, seed=1)
    shuffled = student.flatten(2)[..., [2, 0, 3, 1]].view_as(student)
    there, here = (
        loss(output_of(stage1=x), output_of(stage1=2 * teacher), BATCH) for x in (student, shuffled)
    )
    torch.testing.assert_close(there, here)


def test_a_stage_that_is_not_a_map_is_refused():
    with pytest.raises(UserError, match=r"^stage 'pooled' of small is not a map"):
        InterChannelCorrelation(CONTEXT, ["pooled"])
