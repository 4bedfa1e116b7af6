"""Images are normalised and resized as a network expects; its weights keep their names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kd_bench.interfaces import UserError
from kd_bench.models.adapted_input import AdaptedInput, ExpectedImages, GivenImages
from kd_bench.models.frozen import FusedNetwork, can_fuse_on, fold_batchnorm

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
GIVEN = GivenImages((8, 6), MEAN, STD)
EXPECTED = ExpectedImages((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (12, 12))


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def test_a_network_gets_pixels_in_its_own_normalisation_and_size():
    pixels = torch.rand(5, 3, 8, 6)
    mean, std = (torch.tensor(each)[:, None, None] for each in (EXPECTED.mean, EXPECTED.std))
    bigger = F.interpolate(pixels, (12, 12), mode="bilinear", antialias=True)
    image = (pixels - MEAN[:, None, None]) / STD[:, None, None]
    seen = AdaptedInput(nn.Identity(), GIVEN, EXPECTED)(image)
    torch.testing.assert_close(seen, (bigger - mean) / std, atol=1e-5, rtol=1e-5)


def test_images_are_downscaled_with_antialiasing():
    image = torch.rand(2, 3, 8, 6)
    seen = AdaptedInput(nn.Identity(), GIVEN, ExpectedImages(size=(4, 3)))(image)
    expected = F.interpolate(image, (4, 3), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)


def test_images_are_resized_in_single_precision_under_autocast():
    image = torch.rand(2, 3, 8, 6)
    net = AdaptedInput(nn.Identity(), GIVEN, EXPECTED)
    expected = net(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(image), expected)


def test_gradients_of_images_can_be_differentiated():
    net = AdaptedInput(nn.Tanh(), GIVEN, EXPECTED).double()
    image = torch.rand(1, 3, 8, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(image).sum(), image, create_graph=True)
    gradient.square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0


def test_weights_have_the_same_names_with_and_without_the_wrapper():
    net = small_net()
    adapted = AdaptedInput(copy.deepcopy(net), GIVEN, EXPECTED)
    assert adapted.state_dict().keys() == net.state_dict().keys()
    other = nn.ModuleDict({"inside": AdaptedInput(small_net(), GIVEN, EXPECTED)})
    assert list(other.state_dict()) == [f"inside.{name}" for name in net.state_dict()]
    changed = {name: value + 1 for name, value in net.state_dict().items()}
    other["inside"].load_state_dict(changed)
    assert all(torch.equal(other["inside"].state_dict()[name], x) for name, x in changed.items())
    copied = copy.deepcopy(other)
    copied.load_state_dict({f"inside.{name}": x for name, x in net.state_dict().items()})
    assert torch.equal(copied["inside"].net[0].weight, net[0].weight)
    assert not torch.equal(other["inside"].net[0].weight, net[0].weight)


def test_a_folded_and_fused_network_still_adapts_its_images():
    net = AdaptedInput(small_net(), GIVEN, EXPECTED)
    net.net[1].running_mean.normal_()
    net.eval()
    image = torch.randn(4, 3, 8, 6)
    folded = fold_batchnorm(net)
    assert folded is not None
    torch.testing.assert_close(folded(image), net(image))
    if can_fuse_on(torch.device("cpu")):
        with torch.no_grad():
            torch.testing.assert_close(FusedNetwork(folded)(image), net(image))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (([0.5], None, None), "mean must be three numbers"),
        ((None, [1.0, 1.0, 0.0], None), "std must be above 0"),
        ((None, None, [224]), "input_size must be height and width"),
        ((None, None, [0, 8]), "input_size must be height and width"),
    ],
)
def test_invalid_expectations_are_refused(values, told):
    with pytest.raises(UserError, match=told):
        ExpectedImages.of("model 'x'", *values)


class Nested(nn.Module):
    """Has net.fc and fc, which must not be confused when the prefix `net.` is removed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ModuleDict({"fc": nn.Linear(2, 2)})
        self.fc = nn.Linear(2, 2)


def test_names_that_begin_with_the_wrappers_prefix_are_kept():
    net = Nested()
    wrapped = AdaptedInput(net, GIVEN, EXPECTED)
    inside, outside = net.state_dict(), wrapped.state_dict()
    assert inside.keys() == outside.keys()
    assert all(torch.equal(tensor, outside[name]) for name, tensor in inside.items())
    other = AdaptedInput(Nested(), GIVEN, EXPECTED)
    other.load_state_dict(inside)
    assert all(torch.equal(tensor, inside[name]) for name, tensor in other.state_dict().items())
