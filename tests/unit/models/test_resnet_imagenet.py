"""ResNet-18, 34 and 50: layers, strides, stems, and invalid depths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_bench.models.resnet_imagenet import Bottleneck, ImageNetResNet
from kd_bench.utils.errors import UserError


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_depth_counts_the_convolutions_of_the_main_path_and_the_classifier(depth):
    with torch.device("meta"):
        net = ImageNetResNet(10, depth)
    layers = [path for path, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    assert len([path for path in layers if "downsample" not in path]) + 1 == depth


def test_a_bottleneck_has_its_stride_in_the_3x3_convolution():
    block = Bottleneck(8, 32, 2)
    strided = [path for path, m in block.named_modules() if getattr(m, "stride", (1, 1)) == (2, 2)]
    assert strided == ["conv2", "downsample.0"]
    assert block(torch.randn(2, 8, 6, 6)).shape == (2, 32, 3, 3)


def test_a_bottleneck_with_a_zero_branch_is_the_relu_of_its_shortcut():
    block = Bottleneck(8, 8, 1).eval()
    nn.init.zeros_(block.bn3.weight)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(block(x), x.clamp(min=0), rtol=0, atol=0)


@pytest.mark.parametrize("depth", [20, 101, "18"])
def test_another_depth_is_refused_with_the_valid_ones(depth):
    with pytest.raises(UserError, match=r"^depth of this ResNet must be 18, 34, 50; got '?\d+"):
        ImageNetResNet(10, depth)


def test_the_stem_for_imagenet_is_the_papers():
    # Table 1 for 224x224: 112 after the convolution, 56 after max pooling, and 7 at the end.
    with torch.device("meta"):
        net = ImageNetResNet(1000, 18, stem="imagenet")
        image = torch.zeros(1, 3, 224, 224)
        first = net.relu(net.bn1(net.conv1(image)))
        assert first.shape == (1, 64, 112, 112)
        pooled = net.maxpool(first)
        assert pooled.shape == (1, 64, 56, 56)
        last = net.layer4(net.layer3(net.layer2(net.layer1(pooled))))
        assert last.shape == (1, 512, 7, 7)
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_689_512


def test_another_stem_is_refused_with_the_valid_ones():
    with pytest.raises(
        UserError, match=r"^stem of this ResNet must be small or imagenet; got 'big'"
    ):
        ImageNetResNet(10, 18, stem="big")
