import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from helpers.paths import ROOT
from torch import nn

from kd_bench.models.convolutions import SubsampledConv2d, replace_unsafe_convolutions
from kd_bench.models.resnet import ResNet

# In a separate process: without the replacement it crashes, or its gradients are wrong. The
# environment variable makes oneDNN use only AVX2.
TRAINED = """
import sys, torch
from helpers.jobs import FOUR_CLASSES, config
from kd_bench.jobs.instantiate import build_network

torch.manual_seed(0)  # with one seed in fifty, gradients are so small that rounding errors dominate
torch.set_num_threads(int(sys.argv[1]))
widths = f"model.net.widths={sys.argv[2]}"
settings = config("unused", "method=baseline", widths).model
net = build_network(settings, FOUR_CLASSES).net.to(memory_format=torch.channels_last)
exact = build_network(settings, FOUR_CLASSES).net.double()
exact.load_state_dict(net.state_dict())
image = torch.randn(15, 3, 32, 32)
net(image.contiguous(memory_format=torch.channels_last)).square().sum().backward()
exact(image.double()).square().sum().backward()
for layer in ("layer2", "layer3"):
    projections = (each.get_submodule(f"{layer}.0.downsample.0") for each in (net, exact))
    found, right = (projection.weight.grad.double() for projection in projections)
    assert (found - right).abs().max() < 0.02 * right.abs().max()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("isa", "threads", "widths"),
    [("AVX2", 1, "[3,5,7,8]"), ("AVX2", 2, "[3,5,7,8]"), ("DEFAULT", 2, "[8,8,9,8]")],
)
def test_projections_of_few_channels_have_correct_gradients(isa, threads, widths):
    environment = os.environ | {
        "ONEDNN_MAX_CPU_ISA": isa,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    command = [sys.executable, "-c", TRAINED, str(threads), widths]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def conv(*channels: int, **settings) -> nn.Conv2d:
    return nn.Conv2d(*channels, **{"kernel_size": 1, "stride": 2, **settings})


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"stride": (3, 1)}, {"groups": 2}])
@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_a_replaced_convolution_has_the_same_output_and_gradients(settings, size):
    torch.manual_seed(0)
    unsafe = conv(4, 6, **settings)
    replaced = replace_unsafe_convolutions(deepcopy(unsafe))
    assert type(replaced) is SubsampledConv2d
    image = torch.randn(3, 4, size, size + 1)
    direction = torch.randn_like(unsafe(image))
    for parameter, same in zip(unsafe.parameters(), replaced.parameters(), strict=True):
        (expected,) = torch.autograd.grad(unsafe(image), parameter, direction)
        (found,) = torch.autograd.grad(replaced(image), same, direction)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(replaced(image), unsafe(image))


class Own(nn.Conv2d):
    """A user's subclass, which may compute something else."""


@pytest.mark.parametrize(
    "safe",
    [
        conv(16, 4),
        conv(32, 4, groups=2),
        conv(4, 4, stride=1),
        conv(4, 4, kernel_size=3, padding=1),
        conv(4, 4, padding=1),
        Own(4, 4, 1, 2),
    ],
    ids=repr,
)
def test_other_convolutions_are_not_replaced(safe):
    before = type(safe)
    assert type(replace_unsafe_convolutions(safe)) is before


def test_a_replacement_keeps_the_names_of_weights_and_stages():
    torch.manual_seed(0)
    net = ResNet(10, 8, [4, 4, 15, 8])
    before = list(net.state_dict()), dict(net.stages)
    replace_unsafe_convolutions(net)
    replaced = [name for name, each in net.named_modules() if isinstance(each, SubsampledConv2d)]
    assert replaced == ["layer2.0.downsample.0", "layer3.0.downsample.0"]
    assert (list(net.state_dict()), dict(net.stages)) == before
