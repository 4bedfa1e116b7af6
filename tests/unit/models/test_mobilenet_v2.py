"""MobileNetV2: its size at full width, its blocks, and invalid widths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_bench.models.mobilenet_v2 import InvertedResidual, MobileNetV2
from kd_bench.utils.errors import UserError


def test_at_full_width_it_has_torchvisions_parameters_and_one_more_expansion():
    with torch.device("meta"):
        net = MobileNetV2(1000, 1.0)
    # Here the first block also has a 1x1 convolution from 32 to 32 channels, with batch norm.
    assert sum(p.numel() for p in net.parameters()) == 3_504_872 + 32 * 32 + 2 * 32


def test_a_block_with_a_zero_branch_is_its_shortcut_or_zero():
    x = torch.randn(2, 8, 4, 4)
    same, wider, strided = (
        InvertedResidual(8, *shape, expansion=6).eval() for shape in ((8, 1), (16, 1), (8, 2))
    )
    for block in (same, wider, strided):
        nn.init.zeros_(block.conv[-1].weight)
    assert torch.equal(same(x), x)
    assert torch.equal(wider(x), torch.zeros(2, 16, 4, 4))
    assert torch.equal(strided(x), torch.zeros(2, 8, 2, 2))


@pytest.mark.parametrize("width", [0, -0.5, "half"])
def test_a_width_that_is_not_above_zero_is_refused(width):
    with pytest.raises(UserError, match=r"^width must be a number above 0"):
        MobileNetV2(10, width)
