"""A network with a head instead of its classifier."""

from __future__ import annotations

import copy
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

from kd_bench.interfaces import Head, LossContext, UserError
from kd_bench.models.features import FeatureExtractor, probe_shapes
from kd_bench.models.headed import HeadedNetwork
from kd_bench.models.resnet import ResNet

SIZE = (8, 8)


class Twice(Head):
    """Twice the mean of each channel of stage2."""

    reads = "stage2"
    stages = MappingProxyType({"stage2": "scale", "pooled": "classify:input"})

    def __init__(self):
        super().__init__(LossContext({}, None, 10, torch.zeros(1), 1))
        self.scale, self.classify = nn.Conv2d(8, 8, 1, bias=False), nn.Identity()
        self.scale.weight.data = 2 * torch.eye(8)[:, :, None, None]

    def forward(self, feature: Tensor) -> Tensor:
        return self.classify(self.scale(feature).mean((2, 3)))


@pytest.fixture
def net() -> ResNet:
    torch.manual_seed(0)
    return ResNet(10, 8, [8, 8, 8, 16]).eval()


def headed(net: ResNet, head: Head) -> HeadedNetwork:
    return HeadedNetwork(net, probe_shapes(net, net.stages, SIZE, "resnet8"), head)


def test_the_head_reads_a_stage_and_its_stages_replace_those_of_the_network(net):
    image = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    stages = ["stage1", "stage2", "pooled"]
    before = FeatureExtractor(copy.deepcopy(net), net.stages, stages, "resnet8")(image)
    whole = headed(net, Twice())
    after = FeatureExtractor(whole, whole.stages, stages, "resnet8")(image)
    assert torch.equal(after.features["stage1"], before.features["stage1"])
    assert torch.equal(after.features["stage2"], 2 * before.features["stage2"])
    assert torch.equal(after.features["pooled"], after.logits)
    assert torch.equal(after.logits, 2 * before.features["stage2"].mean((2, 3)))


def test_the_networks_classifier_is_removed(net):
    own = sum(p.numel() for p in net.parameters())
    whole = headed(net, Twice())
    assert sum(p.numel() for p in whole.parameters()) == own - (16 * 10 + 10) + 8 * 8
    assert not any("fc" in name for name in whole.state_dict())


def test_a_network_with_an_unknown_classifier_is_refused(net):
    shapes = probe_shapes(net, net.stages | {"pooled": "avgpool"}, SIZE, "resnet8")
    with pytest.raises(UserError, match="must be its classifier's input"):
        HeadedNetwork(net, shapes, Twice())
