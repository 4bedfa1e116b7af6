"""Functional networks for 32x32 images, with the parameter names of RepDistiller and mdistiller.

Each reads its tensors by name from a state dict, in the order and with the strides of the papers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


class Names:
    """A state dict: creates each tensor on first use, or reads it from the given one."""

    def __init__(self, state: State | None = None):
        self.is_new = state is None
        self.state: State = {} if state is None else state
        self.random = torch.Generator().manual_seed(0)

    def _get(self, name: str, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
        if self.is_new:
            drawn = torch.rand(shape, generator=self.random) * (high - low) + low
            self.state[name] = drawn
        return self.state[name]

    def conv(self, x: Tensor, name: str, out: int, kernel: int, stride=1, groups=1) -> Tensor:
        inputs = x.shape[1] // groups
        scale = (inputs * kernel**2) ** -0.5
        shape = (out, inputs, kernel, kernel)
        weight = self._get(f"{name}.weight", *shape, low=-2 * scale, high=2 * scale)
        return F.conv2d(x, weight, None, stride, kernel // 2, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight = self._get(f"{name}.weight", x.shape[1], low=0.5, high=1.5)
        bias = self._get(f"{name}.bias", x.shape[1], low=-0.2, high=0.2)
        mean = self._get(f"{name}.running_mean", x.shape[1], low=-0.2, high=0.2)
        var = self._get(f"{name}.running_var", x.shape[1], low=0.5, high=1.5)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)
        return F.batch_norm(x, mean, var, weight, bias)

    def linear(self, x: Tensor, name: str, classes: int) -> Tensor:
        x = x.mean((2, 3))
        weight = self._get(f"{name}.weight", classes, x.shape[1])
        return F.linear(x, weight, self._get(f"{name}.bias", classes))


def wrn_16_1(image: Tensor, get: Names, classes: int) -> Tensor:
    x = get.conv(image, "conv1", 16, 3)
    for block, (channels, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
        for i in range(2):
            name, step = f"block{block}.layer.{i}", 1 if i else stride
            active = F.relu(get.norm(x, f"{name}.bn1"))
            out = get.conv(active, f"{name}.conv1", channels, 3, step)
            out = get.conv(F.relu(get.norm(out, f"{name}.bn2")), f"{name}.conv2", channels, 3)
            if x.shape[1] != channels:
                x = get.conv(active, f"{name}.convShortcut", channels, 1, step)
            x = x + out
    return get.linear(F.relu(get.norm(x, "bn1")), "fc", classes)


def resnet18(image: Tensor, get: Names, classes: int) -> Tensor:
    x = F.relu(get.norm(get.conv(image, "conv1", 64, 3), "bn1"))
    for layer, channels in enumerate([64, 128, 256, 512], start=1):
        for i in range(2):
            name, step = f"layer{layer}.{i}", 2 if layer > 1 and i == 0 else 1
            out = F.relu(get.norm(get.conv(x, f"{name}.conv1", channels, 3, step), f"{name}.bn1"))
            out = get.norm(get.conv(out, f"{name}.conv2", channels, 3), f"{name}.bn2")
            if x.shape[1] != channels:
                x = get.conv(x, f"{name}.shortcut.0", channels, 1, step)
                x = get.norm(x, f"{name}.shortcut.1")
            x = F.relu(x + out)
    return get.linear(x, "linear", classes)


def mobilenet_v2(image: Tensor, get: Names, classes: int) -> Tensor:
    x = F.relu(get.norm(get.conv(image, "conv1.0", 16, 3, 2), "conv1.1"))
    groups = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
    groups += [(6, 160, 3, 2), (6, 320, 1, 1)]
    for group, (expansion, width, number, stride) in enumerate(groups):
        for i in range(number):
            name, inner = f"blocks.{group}.{i}.conv", x.shape[1] * expansion
            step = 1 if i else stride
            out = F.relu(get.norm(get.conv(x, f"{name}.0", inner, 1), f"{name}.1"))
            out = get.conv(out, f"{name}.3", inner, 3, step, groups=inner)
            out = F.relu(get.norm(out, f"{name}.4"))
            out = get.norm(get.conv(out, f"{name}.6", width // 2, 1), f"{name}.7")
            x = x + out if step == 1 and x.shape[1] == width // 2 else out
    x = F.relu(get.norm(get.conv(x, "conv2.0", 1280, 1), "conv2.1"))
    return get.linear(x, "classifier.0", classes)


def shufflenet_v2(image: Tensor, get: Names, classes: int) -> Tensor:
    def part(x: Tensor, name: str, i: int, out: int, kernel: int, stride=1) -> Tensor:
        groups = out if kernel == 3 else 1
        x = get.conv(x, f"{name}.conv{i}", out, kernel, stride, groups)
        x = get.norm(x, f"{name}.bn{i}")
        return x if kernel == 3 else F.relu(x)

    x = F.relu(get.norm(get.conv(image, "conv1", 24, 1), "bn1"))
    for layer, (channels, number) in enumerate([(116, 4), (232, 8), (464, 4)], start=1):
        for i in range(number):
            name, half = f"layer{layer}.{i}", channels // 2
            if i == 0:
                one = part(part(x, name, 1, x.shape[1], 3, 2), name, 2, half, 1)
                other = part(part(part(x, name, 3, half, 1), name, 4, half, 3, 2), name, 5, half, 1)
            else:
                one, other = x[:, :half], x[:, half:]
                for number_of_part, kernel in enumerate([1, 3, 1], start=1):
                    other = part(other, name, number_of_part, half, kernel)
            x = torch.stack([one, other], 2).flatten(1, 2)  # interleave the channels
    x = F.relu(get.norm(get.conv(x, "conv2", 1024, 1), "bn2"))
    return get.linear(x, "linear", classes)


NETS = {  # by their names in conf/model
    "wrn_16_1": wrn_16_1,
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v2": shufflenet_v2,
}


def published(name: str, image: Tensor, classes: int) -> tuple[State, Tensor]:
    """Random weights of a network under its published names, and its logits [B, classes]."""
    names = Names()
    NETS[name](image, names, classes)
    return names.state, NETS[name](image, Names(names.state), classes)
