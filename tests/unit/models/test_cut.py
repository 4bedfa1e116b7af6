"""The layers after a stage, as a separate network, and networks that cannot be cut."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.shipped import load, models
from torch import Tensor, nn

from kd_bench.data.source import Description
from kd_bench.interfaces import UserError
from kd_bench.jobs.instantiate import meta_network
from kd_bench.models.cut import rest_after
from kd_bench.models.features import FeatureExtractor
from kd_bench.models.resnet import ResNet

LATER = ("stage2", "stage3", "pooled")


def resnet() -> ResNet:
    torch.manual_seed(0)
    return ResNet(10, 14, [8, 8, 8, 16]).eval()


def image(size: int = 5) -> Tensor:
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def extractor(net: nn.Module) -> FeatureExtractor:
    return FeatureExtractor(net, net.stages, ("stage1", "stage1_pre", *LATER), "resnet14")


def test_with_the_networks_features_it_has_the_same_logits_and_later_features():
    net = extractor(resnet())
    whole = net(image())
    rest = net.rest("stage1", whole.features["stage1"], LATER)
    assert torch.equal(rest.logits, whole.logits)
    assert list(rest.features) == list(LATER)
    for stage in LATER:
        assert torch.equal(rest.features[stage], whole.features[stage])


def test_a_stage_may_be_the_input_of_a_module():
    # The first layer after stage1_pre is the ReLU that ends stage 1
    net = extractor(resnet())
    whole = net(image())
    rest = net.rest("stage1_pre", whole.features["stage1_pre"])
    assert torch.equal(rest.logits, whole.logits)
    assert rest.features == {}


def test_other_features_give_other_logits_and_get_a_gradient():
    net = extractor(resnet()).requires_grad_(False)
    feature = torch.randn(5, 8, 8, 8, requires_grad=True)
    logits = net.rest("stage1", feature).logits
    expected = net.net
    by_hand = expected.layer3(expected.layer2(feature)).mean((2, 3)) @ expected.fc.weight.T
    torch.testing.assert_close(logits, by_hand + expected.fc.bias)
    (gradient,) = torch.autograd.grad(logits.sum(), feature)
    assert gradient.any()


def test_it_shares_the_weights_of_the_network():
    net = extractor(resnet())
    feature = torch.randn(5, 8, 8, 8)
    before = net.rest("stage1", feature).logits
    with torch.no_grad():
        net.net.fc.bias += 1
    torch.testing.assert_close(net.rest("stage1", feature).logits, before + 1)
    assert list(net.state_dict()) == [f"net.{name}" for name in net.net.state_dict()]
    assert len(list(net.parameters())) == len(list(net.net.parameters()))


def test_in_train_mode_it_uses_batch_statistics_and_does_not_update_running_ones():
    net = extractor(resnet().train())
    feature = torch.randn(5, 8, 8, 8)
    state = copy.deepcopy(net.state_dict())
    in_train = net.rest("stage1", feature).logits
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert all(m.track_running_stats for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    twin = copy.deepcopy(net.net)  # updates its running statistics
    torch.testing.assert_close(in_train, twin.fc(twin.layer3(twin.layer2(feature)).mean((2, 3))))
    assert not torch.equal(in_train, extractor(resnet()).rest("stage1", feature).logits)


def test_features_are_released():
    net = extractor(resnet())
    net.rest("stage1", torch.randn(5, 8, 8, 8))
    assert net._features == {}


def test_a_deep_copy_has_its_own_later_layers():
    net = extractor(resnet())
    feature = torch.randn(5, 8, 8, 8)
    before = net.rest("stage1", feature).logits
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.net.fc.bias += 1
    assert torch.equal(net.rest("stage1", feature).logits, before)
    torch.testing.assert_close(twin.rest("stage1", feature).logits, before + 1)


@pytest.mark.parametrize("model", models())
def test_every_model_can_be_cut_after_its_first_stages(model):
    network, _ = meta_network(load("model", model), Description(10, 32, 32, 1, 1))
    sizes = [
        sum(parameter.numel() for parameter in net.parameters())
        for net in (
            network.net,
            rest_after(network.net, network.stages, "stage1", ("stage2", "stage3"), model),
            rest_after(network.net, network.stages, "stage2", ("stage3",), model),
        )
    ]
    assert sizes == sorted(set(sizes), reverse=True)


class Skips(nn.Module):
    """Its second layer also reads the image."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) + x)


class Branches(Skips):
    """Its control flow depends on values, which cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Skips(), "mine cannot be cut at stage 'a': its later layers read more than that stage"),
        (Branches(), "mine cannot be cut at stage 'a': torch.fx cannot trace it, TraceError"),
    ],
    ids=["skips", "branches"],
)
def test_networks_that_cannot_be_cut_are_refused(net, message):
    with pytest.raises(UserError, match=message):
        rest_after(net, {"a": "first"}, "a", (), "mine")


def test_a_stage_within_another_one_that_is_needed_is_refused():
    net = resnet()
    with pytest.raises(UserError, match=r"'layer2\.1\.relu2' is part of another stage"):
        rest_after(net, net.stages, "stage1", ("stage2", "stage2_pre"), "resnet14")


def test_an_earlier_stage_after_a_later_one_is_refused():
    net = resnet()
    with pytest.raises(UserError, match="cannot be cut at stage 'stage2': its later layers"):
        rest_after(net, net.stages, "stage2", ("stage1",), "resnet14")


@pytest.mark.parametrize("paths", [{"a": "one:map", "b": "two"}, {"a": "one", "b": "two:map=2x2"}])
def test_features_that_are_read_as_maps_are_refused(paths):
    net = nn.Sequential()
    net.add_module("one", nn.Linear(8, 8))
    net.add_module("two", nn.Linear(8, 8))
    message = "mine cannot be cut at stage 'a': its features there are tokens or maps"
    with pytest.raises(UserError, match=message):
        rest_after(net, paths, "a", ("b",), "mine")
