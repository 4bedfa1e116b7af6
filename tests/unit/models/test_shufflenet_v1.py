"""ShuffleNet: the order of channels after a shuffle, and the shortcuts of its units."""

from __future__ import annotations

import torch
from torch import nn

from kd_bench.models.shufflenet_v1 import ShuffleUnit, shuffled


def test_a_shuffle_interleaves_the_channels_of_the_groups():
    # Figure 1 (c) of the paper: 3 groups (0 1), (2 3), (4 5)
    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 3)
    assert shuffled(x, 3)[1, :, 2, 2].tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(shuffled(x, 1), x)


def test_a_unit_with_a_zero_branch_is_the_relu_of_its_shortcut():
    unit = ShuffleUnit(24, 24, 1).eval()
    nn.init.zeros_(unit.bn3.weight)
    x = torch.randn(2, 24, 4, 4)
    assert torch.equal(unit(x), x.clamp(min=0))


def test_a_unit_of_stride_two_concatenates_its_branch_and_the_averaged_input():
    unit = ShuffleUnit(24, 60, 2).eval()
    nn.init.zeros_(unit.bn3.weight)
    x = torch.ones(1, 24, 4, 4)
    out = unit(x)
    assert out.shape == (1, 60, 2, 2)
    assert not out[:, :36].any()
    # Windows of 3x3 with a border of zeros: 4, 6, 6 and 9 of nine pixels are inside.
    inside = torch.tensor([[4.0, 6.0], [6.0, 9.0]]) / 9
    torch.testing.assert_close(out[:, 36:], inside.expand(1, 24, 2, 2))
