"""Adapters between feature shapes, and errors with both shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.shipped import shapes
from hypothesis import given, settings, strategies
from torch.autograd import gradcheck

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.common.adapters import (
    Connector,
    ConvRegressor,
    Embedding,
    MapBatchNorm,
    ProjectionHead,
    VectorBatchNorm,
    map_stages,
    require_equal_channels,
    to_common_channels,
    to_common_size,
)


def context() -> LossContext:
    student = shapes("small", stage1=(8, 16, 16), stage2=(16, 8, 8), pooled=(16,))
    teacher = shapes("large", stage1=(8, 32, 32), stage2=(32, 8, 8), pooled=(32,))
    return LossContext(student, teacher, num_classes=10, labels=torch.zeros(4).long(), epochs=1)


def test_the_larger_map_is_averaged_to_the_size_of_the_smaller():
    # [[1, 2, 3, 4], [5, 6, 7, 8]] in blocks of 2x2: (1+2+5+6)/4 = 3.5, (3+4+7+8)/4 = 5.5
    large = torch.arange(1.0, 9).view(1, 1, 2, 4)
    small = torch.tensor([[[[7.0, 9.0]]]])
    s, t = to_common_size(small, large)
    assert torch.equal(s, small)
    assert torch.equal(t, torch.tensor([[[[3.5, 5.5]]]]))
    t, s = to_common_size(large, small)
    assert torch.equal(t, torch.tensor([[[[3.5, 5.5]]]]))


def test_cells_overlap_if_sizes_do_not_divide():
    # 3 to 2: cells 0..1 and 1..2 of [1, 2, 6], so (1+2)/2 = 1.5 and (2+6)/2 = 4
    large, small = torch.tensor([[[[1.0, 2.0, 6.0]]]]), torch.zeros(1, 1, 1, 2)
    assert to_common_size(small, large)[1].flatten().tolist() == [1.5, 4.0]


def test_maps_of_equal_size_are_unchanged():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    s, t = to_common_size(student, teacher)
    assert s is student
    assert t is teacher


sizes = strategies.tuples(strategies.integers(1, 9), strategies.integers(1, 9))


@pytest.mark.slow
@settings(deadline=None)
@given(first=sizes, second=sizes)
def test_any_two_sizes_are_pooled_like_adaptive_average_pooling(first, second):
    student, teacher = torch.randn(2, 3, *first).double(), torch.randn(2, 4, *second).double()
    size = (min(first[0], second[0]), min(first[1], second[1]))
    for x, pooled in zip((student, teacher), to_common_size(student, teacher), strict=True):
        torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(x, size))


@pytest.mark.parametrize("large", [(4, 2), (3, 5)])
def test_gradients_flow_through_the_averages(large):
    small, x = torch.randn(1, 1, 2, 2).double(), torch.randn(1, 2, *large).double()
    assert gradcheck(lambda t: to_common_size(small, t)[1], x.requires_grad_())


def test_unequal_channels_are_refused_with_both_shapes():
    require_equal_channels(context(), "stage1", "FSP")
    with pytest.raises(
        UserError, match=r"FSP needs .* stage2 is 16x8x8 in small and 32x8x8 in large"
    ):
        require_equal_channels(context(), "stage2", "FSP")


def test_stages_that_are_maps_in_both_networks_keep_their_order():
    assert map_stages(context(), ["stage2", "stage1"]) == ("stage2", "stage1")


@pytest.mark.parametrize("stages", ["stage1", [], None, 3])
def test_stages_that_are_not_a_list_are_refused(stages):
    with pytest.raises(UserError, match=r"^stages must be a list such as \[stage1, stage2\], got"):
        map_stages(context(), stages)


def test_a_stage_that_is_not_a_map_is_refused():
    with pytest.raises(
        UserError, match=r"^stage 'pooled' of small is not a map \[C, H, W\] but 16; choose"
    ):
        map_stages(context(), ["stage1", "pooled"])


def test_the_message_lists_maps_and_how_to_turn_tokens_into_a_map():
    tokens = {"tokens": (17, 64), "map": (64, 4, 4)}
    nets = shapes("vit", **tokens), shapes("large", tokens=(64, 4, 4), map=(8, 4, 4))
    vit = LossContext(*nets, num_classes=10, labels=torch.zeros(4).long(), epochs=1)
    with pytest.raises(UserError, match=r"'tokens' of vit .* but 17x64; choose from map\.") as told:
        map_stages(vit, ["tokens"])
    assert "as PATH:map=HxW" in str(told.value)  # which tests of features try


def test_an_unknown_stage_is_refused_with_the_valid_ones():
    with pytest.raises(
        UserError, match=r"^unknown stage 'stage9' of small; choose from stage1, stage2"
    ):
        map_stages(context(), ["stage9"])


def regressor(student: tuple[int, ...], teacher: tuple[int, ...]) -> ConvRegressor:
    pair = shapes("small", stage2=student), shapes("large", stage2=teacher)
    return ConvRegressor(
        LossContext(*pair, num_classes=10, labels=torch.zeros(4).long(), epochs=1), "stage2"
    )


@pytest.mark.parametrize(
    ("student", "teacher", "kernel"),
    [
        ((4, 8, 8), (6, 8, 8), (1, 1)),
        ((4, 8, 8), (6, 4, 4), (3, 3)),
        ((4, 4, 4), (6, 8, 8), (4, 4)),
        ((4, 9, 8), (6, 4, 7), (6, 2)),  # 1 + 9 - 4 and 1 + 8 - 7, as in FitNets
        ((4, 2, 1), (6, 1, 1), (2, 1)),  # only the height is halved
    ],
)
def test_a_regressor_has_the_teachers_shape_and_is_nonnegative(student, teacher, kernel):
    adapter = regressor(student, teacher)
    x = torch.randn(3, *student)
    assert adapter[0].kernel_size == kernel
    assert adapter(x).shape == (3, *teacher)
    assert adapter(x).min() == 0


def test_a_regressor_between_incompatible_sizes_is_refused_with_both_shapes():
    with pytest.raises(UserError, match=r"stage2 is 4x4x4 in small and 6x16x16 in large"):
        regressor((4, 4, 4), (6, 16, 16))


def test_a_connector_changes_the_channels_and_can_be_negative():
    torch.manual_seed(0)
    adapter = Connector(200, 300)
    out = adapter(torch.randn(4, 200, 2, 2))
    assert out.shape == (4, 300, 2, 2)
    assert out.min() < 0
    assert adapter[0].bias is None
    # Variance 2 / 300; the estimate from 60,000 samples is within 2 %.
    assert adapter[0].weight.var().item() == pytest.approx(2 / 300, rel=0.02)


def test_the_wider_map_is_averaged_over_adjacent_channels():
    # Twice the channels, in pairs: (1 + 3) / 2 and (5 + 9) / 2. Five to three, over the cells of
    # adaptive pooling: 0-1, 1-3 and 3-4.
    two, four = torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 3.0, 5.0, 9.0]).view(1, 4, 1, 1)
    narrow, wide = to_common_channels(two, four)
    assert torch.equal(narrow, two)
    assert wide.flatten().tolist() == [2, 7]
    five = torch.arange(5.0).view(1, 5, 1, 1)
    averaged, _ = to_common_channels(five, torch.zeros(1, 3, 2, 2))
    assert averaged.flatten().tolist() == [0.5, 2, 3.5]


def test_an_embedding_is_linear_and_takes_features_of_any_shape():
    embedding = Embedding((2, 3, 1), 4)
    x = torch.rand(5, 2, 3, 1)
    weight, bias = embedding.parameters()
    torch.testing.assert_close(embedding(x), x.view(5, 6) @ weight.T + bias)


def test_a_projection_head_keeps_the_feature_size_and_has_one_relu():
    head = ProjectionHead((2, 3, 1))
    x = torch.randn(5, 2, 3, 1)
    first, second = (layer for layer in head if isinstance(layer, torch.nn.Linear))
    expected = F.relu(x.flatten(1) @ first.weight.T + first.bias) @ second.weight.T + second.bias
    assert head(x).shape == (5, 6)
    torch.testing.assert_close(head(x), expected)


def test_vector_batch_norm_uses_running_statistics_for_a_single_image():
    ours, theirs = VectorBatchNorm(3), torch.nn.BatchNorm1d(3)
    x = torch.rand(4, 3)
    assert torch.equal(ours(x), theirs(x))
    alone = ours(x[:1])
    assert torch.equal(alone, theirs.eval()(x[:1]))
    assert torch.equal(ours.running_mean, theirs.running_mean)


def test_map_batch_norm_uses_running_statistics_for_a_single_position():
    ours, theirs = MapBatchNorm(3), torch.nn.BatchNorm2d(3)
    x = torch.rand(1, 3, 2, 1)
    assert torch.equal(ours(x), theirs(x))
    alone = ours(x[:, :, :1])
    assert torch.equal(alone, theirs.eval()(x[:, :, :1]))
    assert torch.equal(ours.running_mean, theirs.running_mean)
