"""Initial weights have the variances of the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kd_bench.models.initialization import initialize_classifier, initialize_convolutions


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("groups", [1, 256])
def test_the_variance_of_a_convolution_is_two_over_fan_out(groups):
    net = nn.Sequential(nn.Conv2d(256, 256, 3, groups=groups))
    initialize_convolutions(net)
    # From at least 2,304 samples, so within 5 %.
    assert net[0].weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.05)
    assert not net[0].bias.any()


def test_the_classifiers_standard_deviation_is_0_01():
    linear = nn.Linear(512, 100)
    initialize_classifier(linear)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not linear.bias.any()


def test_other_modules_are_not_changed():
    net = nn.Sequential(nn.BatchNorm2d(8), nn.Linear(8, 4))
    before = [parameter.clone() for parameter in net.parameters()]
    initialize_convolutions(net)
    assert all(map(torch.equal, net.parameters(), before))
