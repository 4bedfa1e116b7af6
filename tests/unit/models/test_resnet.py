"""The residual networks for small images match the literature: layers, names, initialization."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.jobs import composed
from helpers.shipped import network
from torch import nn

from kd_bench.data.source import Description
from kd_bench.jobs import instantiate
from kd_bench.models.features import FeatureExtractor
from kd_bench.models.resnet import BasicBlock, ResNet
from kd_bench.utils.errors import UserError


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_depth_counts_the_convolutions_of_the_main_path_and_the_classifier(depth):
    with torch.device("meta"):
        net = ResNet(10, depth, [16, 16, 32, 64])
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == depth


def test_shortcuts_are_projections_only_if_the_shape_changes():
    projected = {
        name: [path for path, module in network(name).named_modules() if _is_projection(module)]
        for name in ("resnet14", "resnet8x4")
    }
    assert projected == {
        "resnet14": ["layer2.0.downsample.0", "layer3.0.downsample.0"],
        "resnet8x4": [f"layer{i}.0.downsample.0" for i in (1, 2, 3)],
    }


def _is_projection(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)


def test_a_block_with_a_zero_branch_is_the_relu_of_its_shortcut():
    block = BasicBlock(3, 3, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(block(x), x.clamp(min=0), rtol=0, atol=0)


def test_weights_are_initialized_as_in_the_literature():
    torch.manual_seed(0)
    net = network("resnet8x4", device="cpu")
    weight = net.layer3[0].conv1.weight  # [256, 128, 3, 3]
    # Kaiming, fan_out: variance 2 / (256 · 9); the estimate from 294,912 samples is within 1 %.
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.01)
    assert weight.abs().max() > 3 * weight.std()  # normal, not uniform
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)
    # PyTorch's default: uniform within 1 / sqrt(fan_in) = 1/16.
    assert 0.06 < net.fc.weight.abs().max() <= 1 / 16


def test_tensors_have_the_names_of_published_checkpoints():
    names = list(network("resnet8").state_dict())
    assert names[:2] == ["conv1.weight", "bn1.weight"]
    assert names[-2:] == ["fc.weight", "fc.bias"]
    assert {"layer1.0.conv1.weight", "layer2.0.downsample.1.running_var"} <= set(names)


def test_features_have_the_relations_that_their_names_imply():
    torch.manual_seed(0)
    net = ResNet(10, 14, [4, 4, 8, 16]).eval()
    out = FeatureExtractor(net, net.stages, net.stages, "resnet14")(torch.randn(3, 3, 8, 8))
    for stage in ("stem", "stage1", "stage2", "stage3"):
        before = out.features[f"{stage}_pre"]
        assert before.min() < 0
        assert torch.equal(out.features[stage], before.clamp(min=0))
    assert torch.equal(out.features["stem_norm"], out.features["stem_pre"])
    for i in (1, 2, 3):  # the second of two blocks, whose shortcut is the identity
        inner = net.get_submodule(f"layer{i}.0")(_input_of(i, out.features))
        before = inner + out.features[f"stage{i}_norm"]
        torch.testing.assert_close(before, out.features[f"stage{i}_pre"])
    pooled = out.features["pooled"]
    torch.testing.assert_close(pooled, out.features["stage3"].mean((2, 3)))
    torch.testing.assert_close(out.logits, pooled @ net.fc.weight.T + net.fc.bias)


def _input_of(stage: int, features: dict[str, torch.Tensor]) -> torch.Tensor:
    return features["stem" if stage == 1 else f"stage{stage - 1}"]


@pytest.mark.slow
def test_stages_may_be_added_on_the_command_line():
    config, _ = composed("dataset=synthetic", "model=resnet8", "+model.stages.one=layer1")
    network = instantiate.build_network(config.model, Description(10, 32, 32, 1, 1))
    assert network.shapes((32, 32)) == {"one": (16, 32, 32)}


@pytest.mark.parametrize("depth", [2, 18, 20.0, "20"])
def test_a_depth_that_is_not_6n_plus_2_is_refused_with_valid_ones(depth):
    with pytest.raises(UserError, match=rf"must be 6n\+2, such as 8, 14, 20.* got '?{depth}"):
        ResNet(10, depth, [16, 16, 32, 64])


@pytest.mark.parametrize("widths", [[16, 32, 64], [16, 16, 0, 64], [16, 16, 32, 6.4], "wide", 16])
def test_widths_that_are_not_four_whole_numbers_are_refused(widths):
    with pytest.raises(UserError, match="widths of a ResNet must be four"):
        ResNet(10, 8, widths)
