"""Wide ResNets of any depth and width, and their stages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_bench.models.features import FeatureExtractor
from kd_bench.models.wrn import PreActivationBlock, WideResNet
from kd_bench.utils.errors import UserError


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0), (28, 10, 36.5)],
)
def test_parameters_match_table_4_of_the_paper(depth, width, millions):
    with torch.device("meta"):
        net = WideResNet(10, depth, width)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions


def test_depth_counts_all_convolutions():
    with torch.device("meta"):
        net = WideResNet(10, 22, 2)
    assert len([m for m in net.modules() if isinstance(m, nn.Conv2d)]) == 22


@pytest.mark.parametrize(("stride", "channels"), [(1, 8), (2, 16)])
def test_a_block_with_a_zero_branch_is_its_shortcut(stride, channels):
    block = PreActivationBlock(8, channels, stride).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 4, 4)
    active = torch.relu(x / (1 + block.bn1.eps) ** 0.5)  # batch norm is in its initial state
    expected = x if block.shortcut is None else block.shortcut(active)
    torch.testing.assert_close(block(x), expected)


def test_a_stage_is_the_sum_after_the_next_batch_norm_and_relu():
    torch.manual_seed(0)
    net = WideResNet(10, 10, 2).eval()
    norms = {"stem": "block1.0.bn1", "stage1": "block2.0.bn1", "stage2": "block3.0.bn1"}
    for path in (*norms.values(), "bn1"):
        nn.init.normal_(net.get_submodule(path).bias)
    out = FeatureExtractor(net, net.stages, net.stages, "wrn")(torch.randn(3, 3, 8, 8)).features
    for stage, path in {**norms, "stage3": "bn1"}.items():
        before = net.get_submodule(path)(out[f"{stage}_sum"])
        torch.testing.assert_close(out[f"{stage}_norm"], before)
        torch.testing.assert_close(out[stage], before.relu())
    torch.testing.assert_close(out["pooled"], out["stage3"].mean((2, 3)))


@pytest.mark.parametrize("depth", [4, 20, 16.0, "16"])
def test_a_depth_that_is_not_6n_plus_4_is_refused_with_valid_ones(depth):
    with pytest.raises(UserError, match=rf"must be 6n\+4, such as 10, 16, .*; got '?{depth}"):
        WideResNet(10, depth, 1)


@pytest.mark.parametrize("width", [0, -1, 1.5, "2"])
def test_a_width_that_is_not_a_whole_number_above_zero_is_refused(width):
    with pytest.raises(UserError, match=r"^width of a wide ResNet must be a whole number above 0"):
        WideResNet(10, 16, width)
