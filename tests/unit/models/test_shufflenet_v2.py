"""ShuffleNet V2: its size for 1,000 classes, and its units."""

from __future__ import annotations

import torch
from torch import nn

from kd_bench.models.shufflenet_v2 import DownUnit, ShuffleNetV2, SplitUnit


def test_it_has_torchvisions_parameters_but_a_smaller_stem():
    with torch.device("meta"):
        net = ShuffleNetV2(1000)
    # The stem is 1x1 instead of 3x3.
    assert sum(p.numel() for p in net.parameters()) == 2_278_604 - 3 * 24 * (9 - 1)


def test_half_of_the_channels_pass_through_a_unit_unchanged():
    unit = SplitUnit(8).eval()
    nn.init.zeros_(unit.branch[-1].weight)
    x = torch.rand(2, 8, 4, 4)
    out = unit(x)
    assert torch.equal(out[:, 0::2], x[:, :4])
    assert not out[:, 1::2].any()


def test_both_branches_of_a_unit_of_stride_two_are_shuffled():
    unit = DownUnit(8, 16).eval()
    left, right = unit.left[-1], unit.right[-1]
    for norm, value in ((left, 1.0), (right, 2.0)):
        nn.init.zeros_(norm.weight)
        nn.init.constant_(norm.bias, value)
    out = unit(torch.randn(2, 8, 6, 6))
    assert out.shape == (2, 16, 3, 3)
    assert (out[:, 0::2] == 1).all()
    assert (out[:, 1::2] == 2).all()
