"""MobileNetV1: its size in the literature, its shapes on ImageNet, and invalid widths."""

from __future__ import annotations

import pytest
import torch

from kd_bench.models.features import probe_shapes
from kd_bench.models.mobilenet_v1 import MobileNetV1
from kd_bench.utils.errors import UserError


def count(width: float) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in MobileNetV1(1000, width).parameters())


def test_parameters_match_the_paper_at_full_half_and_quarter_width():
    # Keras and torchdistill count 4,231,976; tables 6 and 7 of the paper 4.2, 1.3 and 0.5 million.
    assert count(1.0) == 4_231_976
    assert [round(count(width) / 1e6, 1) for width in (1.0, 0.5, 0.25)] == [4.2, 1.3, 0.5]


def test_stages_have_the_resolutions_of_a_resnet_on_imagenet():
    with torch.device("meta"):
        net = MobileNetV1(1000)
    shapes = probe_shapes(net, net.stages, (224, 224), "mobilenet_v1")
    expected = {"stem": (64, 112), "stage1": (128, 56), "stage2": (256, 28), "stage3": (512, 14)}
    expected["stage4"] = (1024, 7)
    for stage, (channels, side) in expected.items():
        assert shapes[stage] == (channels, side, side)


@pytest.mark.parametrize("width", [0, -0.5, "half"])
def test_a_width_that_is_not_above_zero_is_refused(width):
    with pytest.raises(UserError, match=r"^width must be a number above 0"):
        MobileNetV1(10, width)
