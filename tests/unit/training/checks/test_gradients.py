"""Wrong gradients of convolutions in a memory layout are found before training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kd_bench.models.resnet import ResNet
from kd_bench.training.checks.gradients import check_gradients
from kd_bench.utils.errors import UserError


class Wrong(torch.autograd.Function):
    """The identity, with a doubled gradient for one memory layout."""

    @staticmethod
    def forward(ctx, image: Tensor) -> Tensor:
        ctx.factor = 1.0 if image.is_contiguous() else 2.0
        return image.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return ctx.factor * gradient


class BrokenConv2d(nn.Conv2d):
    """A convolution with wrong gradients in channels-last layout, like that of a broken kernel."""

    def forward(self, image: Tensor) -> Tensor:
        return Wrong.apply(super().forward(image))


class Net(nn.Module):
    def __init__(self, second: type[nn.Conv2d]):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = second(8, 8, 3)
        self.drop = nn.Dropout()

    def forward(self, image: Tensor) -> Tensor:
        return self.drop(self.second(self.first(image))).mean((2, 3))


def test_a_convolution_with_wrong_gradients_is_reported():
    with pytest.raises(UserError, match=r"gradients of 'second' of mine .*add speed=reference"):
        check_gradients(Net(BrokenConv2d), (8, 8), torch.channels_last, "mine")


def test_pytorchs_default_layout_needs_no_check():
    check_gradients(Net(BrokenConv2d), (8, 8), torch.contiguous_format, "mine")


WITHOUT_CONVOLUTIONS = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))


@pytest.mark.parametrize(
    "net", [ResNet(10, 20, [16, 16, 32, 64]), Net(nn.Conv2d), WITHOUT_CONVOLUTIONS]
)
def test_correct_gradients_pass_and_the_network_is_not_changed(net):
    net.to(memory_format=torch.channels_last).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    check_gradients(net, (8, 8), torch.channels_last, "mine")
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dim() != 4 or value.is_contiguous(memory_format=torch.channels_last)
