"""Frozen networks: fused convolutions have the same outputs, also where fusing a sum is unsafe."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

from kd_bench.models.frozen import FusedNetwork, can_fuse_on, fold_batchnorm
from kd_bench.models.resnet import ResNet

pytestmark = pytest.mark.skipif(
    not can_fuse_on(torch.device("cpu")), reason="oneDNN's fused convolutions are for x86 CPUs"
)
IMAGE = (3, 3, 8, 8)


def conv(channels_in: int = 8, stride: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(channels_in, 8, 3, stride, padding=1, **options)


class Net(nn.Module):
    """The convolutions of the networks below."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = conv(3), conv(), conv()
        self.relu = nn.ReLU()


class ReadsItselfIntoTheSum(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        return self.relu(x + self.one(x))


class ReadsTheTermAfterTheSum(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        y = torch.relu(self.two(self.one(x)) + x)
        return y * x


class ReadsAViewOfTheTermAfterTheSum(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        view = x.flatten(1)
        y = self.two(self.one(x)) + x
        return y.flatten(1) - view


class AddsToALargerTensor(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        return x + self.one(x.mean((2, 3), keepdim=True))


class AddsASmallerTensor(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        return torch.relu(self.two(self.one(x.mean((2, 3), keepdim=True))) + self.two(x))


class AddsTwiceItself(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        return (x + x).relu()


class AddsScaled(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        return torch.add(x, self.two(self.one(x)), alpha=2.0)


class AddsANumber(Net):
    def forward(self, image: Tensor) -> Tensor:
        return torch.relu(self.stem(image) + 1.0)


class AddsInPlace(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        y = self.two(self.one(x))
        y += x
        return y.relu_()


class SharesAConvolution(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.one(self.stem(image)))
        return self.relu(self.one(x) + self.two(self.one(self.one(x))))


class ReadsASumTwice(Net):
    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        total = self.one(self.two(x)) + x
        return torch.relu(total) - total


class PadsByReflection(Net):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, padding_mode="reflect")

    def forward(self, image: Tensor) -> Tensor:
        return self.relu(self.stem(image))


class HalvesTheResolution(Net):
    def __init__(self):
        super().__init__()
        self.one, self.shortcut = conv(stride=2), nn.Conv2d(8, 8, 1, 2, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.stem(image))
        return self.relu(self.two(self.relu(self.one(x))) + self.shortcut(x))


def fused_modules(net: FusedNetwork) -> int:
    return sum("fused" in name for name, _ in net.traced.named_children())


@pytest.mark.parametrize("kind", Net.__subclasses__(), ids=lambda kind: kind.__name__)
@torch.no_grad()
def test_the_output_equals_the_networks_also_on_the_second_call(kind):
    torch.manual_seed(0)
    net = kind().eval().to(memory_format=torch.channels_last)
    fused = FusedNetwork(symbolic_trace(net))
    for size in (3, 2):  # the last batch may be smaller
        image = torch.randn(size, *IMAGE[1:]).to(memory_format=torch.channels_last)
        expected = net(image)
        assert torch.equal(fused(image), expected)
        assert torch.equal(fused(image), expected)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (HalvesTheResolution, 3),  # relu, relu, sum with relu; not the shortcut
        (AddsInPlace, 1),
        (ReadsTheTermAfterTheSum, 0),
        (ReadsAViewOfTheTermAfterTheSum, 0),
        (PadsByReflection, 0),
    ],
)
@torch.no_grad()
def test_convolutions_are_fused_where_that_is_safe(kind, number):
    fused = FusedNetwork(symbolic_trace(kind().eval()))
    fused(torch.randn(IMAGE))
    assert fused_modules(fused) == number


@torch.no_grad()
def test_a_resnet_is_fused_completely_and_keeps_its_logits_bit_for_bit():
    torch.manual_seed(0)
    net = ResNet(num_classes=4, depth=14, widths=[8, 8, 16, 16]).train()
    net(torch.randn(64, *IMAGE[1:]))  # running statistics other than 0 and 1
    folded = fold_batchnorm(net.eval()).to(memory_format=torch.channels_last)
    image = torch.randn(IMAGE).to(memory_format=torch.channels_last)
    expected = folded(image)
    fused = FusedNetwork(folded)
    assert torch.equal(fused(image), expected)
    called = [str(node.target) for node in fused.traced.graph.nodes if node.op != "output"]
    # 13 convolutions are fused; the two shortcuts are not, as each block is added to its shortcut
    assert sum("fused" in name for name in called) == 13
    assert not [name for name in called if "relu" in name or "add" in name]
