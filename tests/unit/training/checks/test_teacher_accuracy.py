"""A given teacher with near-chance or unexpected accuracy is refused with the likely cause."""

from pathlib import Path

import pytest
import torch
from torch import nn

from kd_bench.data.resident import ResidentData
from kd_bench.data.source import Split
from kd_bench.models.adapted_input import AdaptedInput, ExpectedImages, GivenImages
from kd_bench.models.features import FeatureExtractor
from kd_bench.training.checks.teacher_accuracy import check_expected, check_teacher_accuracy
from kd_bench.training.loop import predictions
from kd_bench.utils.errors import UserError

K = 4  # classes; images of class k have the grey value 40 + 40 k
PATH = Path("net.pt")


class ByGrey(nn.Module):
    """Classifies images by their mean, as if they were normalised by `mean` and `std`."""

    def __init__(self, mean=0.0, std=1.0, order=range(K)):
        super().__init__()
        centers = (torch.tensor([40.0 + 40 * k for k in range(K)]) / 255 - mean) / std
        self.register_buffer("centers", centers[list(order)])

    def forward(self, image):
        return -(image.mean((1, 2, 3))[:, None] - self.centers).square()


def data(mean=0.3, std=0.1, swapped=0):
    """100 images; the first `swapped` of each class have the label of the next class."""
    target = torch.arange(100) % K
    grey = (40 + 40 * target).to(torch.uint8).view(-1, 1, 1, 1)
    target = torch.where(torch.arange(100) < K * swapped, (target + 1) % K, target)
    split = Split(grey.expand(100, 2, 2, 3).contiguous(), target)
    return ResidentData(
        train=split,
        test=split,
        validation=None,
        num_classes=K,
        pad=0,
        flip=False,
        mean=torch.full((3,), mean),
        std=torch.full((3,), std),
        fingerprint="",
    )


def check(net, of, expected=None):
    network = FeatureExtractor(net, {}, (), "").eval()
    check_teacher_accuracy(PATH, network, of, predictions(network, of, of.test), expected)


def refusal(*arguments):
    with pytest.raises(UserError) as error:
        check(*arguments)
    return str(error.value)


def test_a_trained_teacher_passes():
    check(ByGrey(0.3, 0.1), data())


@pytest.mark.parametrize(("expected", "passes"), [(90.0, True), (88.0, True), (92.0, True)])
def test_an_accuracy_within_two_points_passes(expected, passes):
    check(ByGrey(0.3, 0.1), data(swapped=2.5), expected)


@pytest.mark.parametrize("expected", [87.9, 92.1, 100.0])
def test_another_accuracy_is_refused_with_both_numbers(expected):
    assert refusal(ByGrey(0.3, 0.1), data(swapped=2.5), expected).startswith(
        "the teacher in net.pt classifies 90.00 % of the test images correctly, but"
        f" teacher.expected_accuracy is {expected:.2f} %: it was trained on other images or classes"
    )


def test_a_teacher_near_chance_is_refused_unless_that_is_expected():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(12, K))
    with torch.no_grad():
        constant[1].weight.zero_()
    message = refusal(constant, data())
    assert "classifies 25.00 % of the test images correctly, near chance (25.00 %): " in message
    assert message.endswith("; if this is intended, set teacher.expected_accuracy=25.00")
    check(constant, data(), 25.0)


@pytest.mark.parametrize(
    ("mean", "std", "cause"),
    [
        (
            0.0,
            1.0,
            "without normalisation it reaches 100.00 %: set teacher.model.mean=[0,0,0]"
            " teacher.model.std=[1,1,1]",
        ),
        (
            0.5,
            0.5,
            "with pixels from -1 to 1 it reaches 100.00 %: set teacher.model.mean=[0.5,0.5,0.5]"
            " teacher.model.std=[0.5,0.5,0.5]",
        ),
        (
            0.449,
            0.226,
            "with ImageNet's normalisation it reaches 100.00 %:"
            " set teacher.model.mean=[0.485,0.456,0.406] teacher.model.std=[0.229,0.224,0.225]",
        ),
    ],
)
@pytest.mark.parametrize("expected", [None, 100.0])
def test_a_wrong_normalisation_is_found(mean, std, cause, expected):
    message = refusal(ByGrey(mean, std), data(mean=5.0, std=0.01), expected)
    assert f"it was trained with another normalisation; {cause}" in message


def test_a_wrong_normalisation_given_for_the_teacher_is_found():
    given, wrong = data(), ExpectedImages((0.9,) * 3, (2.0,) * 3, (4, 4))
    net = AdaptedInput(ByGrey(), GivenImages((2, 2), given.mean, given.std), wrong)
    message = refusal(net, given, 100.0)
    assert "without normalisation it reaches 100.00 %" in message
    assert message.endswith("teacher.model.mean=[0,0,0] teacher.model.std=[1,1,1]")


def test_a_wrong_order_of_the_classes_is_found():
    message = refusal(ByGrey(0.3, 0.1, order=[1, 2, 3, 0]), data())
    assert "classifies 0.00 % of the test images" in message
    assert message.endswith("its classes are in another order; in the best one it reaches 100.00 %")


@pytest.mark.parametrize(
    ("expected", "checkpoint", "answer"),
    [(70.0, None, "which is not given"), (100.5, "net.pt", "from 0 to 100"), (-1.0, "a", "0 to")],
)
def test_an_invalid_expected_accuracy_is_refused(expected, checkpoint, answer):
    with pytest.raises(UserError, match=answer):
        check_expected(expected, checkpoint)
