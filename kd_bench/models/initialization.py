"""Initial weights as the field's reference code draws them."""

from __future__ import annotations

from torch import nn


def initialize_convolutions(net: nn.Module) -> None:
    """Kaiming's normal weights, variance 2 / (kernel area · channels out), and zero biases.

    As in He et al., 2015, arXiv:1502.01852, equation 14. The channels are all channels of a grouped
    convolution, as in RepDistiller.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialize_classifier(linear: nn.Linear) -> None:
    """Normal weights of deviation 0.01 and zero biases, as of VGG and MobileNetV2."""
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
