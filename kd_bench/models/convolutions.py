"""Convolutions that PyTorch's CPU kernels get wrong, replaced by equal ones that they get right.

oneDNN's kernel for the weight gradient of a strided 1x1 convolution in channels-last layout reads
and writes out of bounds if there are fewer input channels than its block: 8 on CPUs with AVX2, and
16 with AVX-512 and two threads or more. A process dies of it, or learns from wrong gradients
(uxlfoundation/oneDNN#6035; seen with PyTorch 2.6 and 2.13). torch.compile chooses that layout
whatever the layout of the image, so another layout for the network would not help.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 16  # channels, the larger one; `tools/convolutions.py` looks for shapes that break


class SubsampledConv2d(nn.Conv2d):
    """A strided 1x1 convolution that drops the pixels it does not read, and then has stride 1."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as in nn.Conv2d
        """[B, channels_in, H, W] -> [B, channels, ceil(H / s), ceil(W / s)]."""
        down, right = self.stride
        pixels = input[..., ::down, ::right]
        return F.conv2d(pixels, self.weight, self.bias, groups=self.groups)


def replace_unsafe_convolutions(net: nn.Module) -> nn.Module:
    """Replace, in place, those convolutions that the kernel named above would compute.

    This follows from the network alone, so that a network is the same on every machine. Weights,
    their names and the stages of the network stay as they are. Convolutions of a subclass of
    `nn.Conv2d` are left alone, since they may compute something else.

    Returns:
        `net`.
    """
    for module in net.modules():
        if type(module) is nn.Conv2d and _is_unsafe(module):
            module.__class__ = SubsampledConv2d
    return net


def _is_unsafe(conv: nn.Conv2d) -> bool:
    is_strided_1x1 = conv.kernel_size == (1, 1) and max(conv.stride) > 1
    is_padded = conv.padding not in ((0, 0), "valid")
    return is_strided_1x1 and not is_padded and conv.in_channels // conv.groups < BLOCK
