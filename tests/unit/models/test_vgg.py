"""VGG: its convolutions and blocks, larger images, and invalid depths."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from helpers.shipped import load
from torch import nn
from torch.nn import functional as F

from kd_bench.data.source import Description
from kd_bench.jobs.instantiate import build_network
from kd_bench.models.features import FeatureExtractor
from kd_bench.models.vgg import VGG
from kd_bench.utils.errors import UserError


@pytest.mark.parametrize("depth", [8, 11, 13, 16, 19])
def test_depth_counts_the_convolutions_and_the_three_linear_layers_of_the_paper(depth):
    with torch.device("meta"):
        net = VGG(10, depth)
    assert len([m for m in net.modules() if isinstance(m, nn.Conv2d)]) == depth - 3


def test_a_block_reads_the_max_pooled_output_of_the_previous_one():
    torch.manual_seed(0)
    net = VGG(10, 8).eval()
    out = FeatureExtractor(net, net.stages, net.stages, "vgg8")(torch.randn(2, 3, 8, 8)).features
    blocks = ("stem", "stage1", "stage2", "stage3")
    for i, (stage, following) in enumerate(pairwise(blocks), start=1):
        cells = out[stage].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B, C, H/2, 2, W/2, 2]
        expected = net.get_submodule(f"block{i}")(cells.amax((3, 5)))
        torch.testing.assert_close(out[following], expected)
    torch.testing.assert_close(out["stage4"], net.block4(out["stage3"]))


@pytest.mark.parametrize(("side", "sides"), [(32, (4, 4)), (64, (8, 4)), (96, (12, 12))])
def test_only_images_of_64_pixels_are_also_pooled_after_the_fourth_block(side, sides):
    torch.manual_seed(0)
    net = build_network(load("model", "vgg8"), Description(10, side, side, 1, 1)).net.eval()
    read = FeatureExtractor(net, net.stages, ("stage3", "stage4"), "vgg8")
    before, last = read(torch.randn(1, 3, side, side)).features.values()
    assert (before.shape[-1], last.shape[-1]) == sides
    torch.testing.assert_close(last, net.block4(F.adaptive_max_pool2d(before, last.shape[-1])))


@pytest.mark.parametrize("depth", [9, 12, "13"])
def test_another_depth_is_refused_with_the_valid_ones(depth):
    with pytest.raises(UserError, match=r"^depth of a VGG must be 8, 11, 13, 16, 19; got '?\d+"):
        VGG(10, depth)
