"""Weight initialization as in the reference code of the field."""

from __future__ import annotations

from torch import nn


def initialize_convolutions(net: nn.Module) -> None:
    """Kaiming normal weights, variance 2 / (kernel area · output channels), and zero biases.

    He et al., 2015, arXiv:1502.01852, equation 14. For a grouped convolution, the channels of all
    groups count, as in RepDistiller.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialize_classifier(linear: nn.Linear) -> None:
    """Normal weights of standard deviation 0.01 and zero biases, as in VGG and MobileNetV2."""
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
