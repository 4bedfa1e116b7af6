"""Replaces convolutions that PyTorch's CPU kernels get wrong by equivalent ones that are right.

oneDNN's kernel for the weight gradient of a strided 1x1 convolution in channels-last layout reads
and writes out of bounds if there are fewer input channels than its block size: 8 on CPUs with AVX2,
and 16 with AVX-512 and two threads or more. The process crashes or computes wrong gradients
(uxlfoundation/oneDNN#6035; seen with PyTorch 2.6 and 2.13). torch.compile chooses that layout
for any layout of the image, so changing the network's layout would not help.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 16  # channels, the larger block; `tools/convolutions.py` searches for failing shapes


class SubsampledConv2d(nn.Conv2d):
    """A strided 1x1 convolution, computed as subsampling and a convolution of stride 1."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as in nn.Conv2d
        """[B, channels_in, H, W] -> [B, channels, ceil(H / s), ceil(W / s)]."""
        down, right = self.stride
        pixels = input[..., ::down, ::right]
        return F.conv2d(pixels, self.weight, self.bias, groups=self.groups)


def replace_unsafe_convolutions(net: nn.Module) -> nn.Module:
    """Replace, in place, the convolutions that the kernel described above would compute.

    The choice depends only on the network, so that a network is the same on every machine. Weights,
    their names and the network's stages do not change. Subclasses of `nn.Conv2d` are not replaced,
    since they may compute something else.

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
