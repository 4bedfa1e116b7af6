"""Checks that a given teacher's accuracy is as expected, or at least not near chance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from kd_bench.data.data import Data
from kd_bench.models.adapted_input import AdaptedInput, ExpectedImages, GivenImages
from kd_bench.models.features import FeatureExtractor
from kd_bench.training.loop import accuracy, predictions
from kd_bench.utils.errors import UserError, require

OFF = 2.0  # tolerated difference from the expected accuracy, in points
NEAR_CHANCE = 5.0  # points above the accuracy of always predicting the most frequent class
# Points by which another normalisation or class order must be better to be the likely cause. In
# the best class order, even random predictions are some points better than chance.
CLEARLY_BETTER = 20.0

NORMALISATIONS = {  # name -> mean and deviation by channel, of pixels in [0, 1]
    "without normalisation": ([0.0] * 3, [1.0] * 3),
    "with ImageNet's normalisation": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "with pixels from -1 to 1": ([0.5] * 3, [0.5] * 3),
}


def check_teacher_accuracy(
    path: Path, network: FeatureExtractor, data: Data, predicted: Tensor, expected: float | None
) -> None:
    """Refuse a teacher that does not classify the test images as a trained one would.

    Args:
        path: the file of its weights, for the message.
        network: the teacher.
        data: the images.
        predicted: the class [N] that the teacher predicts for each test image.
        expected: the expected accuracy in percent; None accepts any that is not near chance.

    Raises:
        UserError: states both numbers and the likely cause.
    """
    target = data.test.target
    measured = accuracy(predicted, target)
    chance = 100.0 * target.bincount().max().item() / len(target)
    if expected is None:
        is_right = measured > chance + NEAR_CHANCE
        other = f"near chance ({chance:.2f} %)"
        meant = f"; if this is intended, set teacher.expected_accuracy={measured:.2f}"
    else:
        is_right = abs(measured - expected) <= OFF
        other, meant = f"but teacher.expected_accuracy is {expected:.2f} %", ""
    if is_right:
        return
    better, cause = max(_causes(network, data, predicted))
    is_expected = expected is not None and abs(better - expected) <= OFF
    if not is_expected and better - max(measured, chance) < CLEARLY_BETTER:
        cause = (
            "it was trained on other images or classes, or these are not the trained weights (other"
            f" normalisations and class orders do not explain it){meant}"
        )
    raise UserError(
        f"the teacher in {path} classifies {measured:.2f} % of the test images correctly, {other}:"
        f" {cause}"
    )


def check_expected(expected: float | None, checkpoint: str | None) -> None:
    """Refuse an expected accuracy that is out of range, or given without a checkpoint."""
    require(
        expected is None or checkpoint is not None,
        "teacher.expected_accuracy needs teacher.checkpoint, which is not given",
    )
    require(
        expected is None or 0 <= expected <= 100,
        f"teacher.expected_accuracy must be from 0 to 100 (percent), got {expected}",
    )


def _causes(
    network: FeatureExtractor, data: Data, predicted: Tensor
) -> Iterator[tuple[float, str]]:
    """For each likely cause, the teacher's accuracy once it is corrected, and its description."""
    target = data.test.target
    for name, (mean, std) in NORMALISATIONS.items():
        other = _fed(network, data, mean, std)
        correct = accuracy(predictions(other, data, data.test), target)
        yield (
            correct,
            f"it was trained with another normalisation; {name} it reaches {correct:.2f} %:"
            f" set teacher.model.mean={_joined(mean)} teacher.model.std={_joined(std)}",
        )
    correct = _best_order(predicted, target, data.num_classes)
    yield correct, f"its classes are in another order; in the best one it reaches {correct:.2f} %"


def _fed(
    network: FeatureExtractor, data: Data, mean: list[float], std: list[float]
) -> FeatureExtractor:
    """The teacher, given images with another mean and deviation at its current input size."""
    net, size = network.net, data.image_size
    if isinstance(net, AdaptedInput):
        size = net.inner.size
        net = net.net
    given = GivenImages(data.image_size, data.mean.cpu(), data.std.cpu())
    adapted = AdaptedInput(net, given, ExpectedImages(tuple(mean), tuple(std), size))
    return FeatureExtractor(adapted.to(data.mean.device), {}, (), "").eval()


def _joined(values: list[float]) -> str:
    return f"[{','.join(f'{value:g}' for value in values)}]"


def _best_order(predicted: Tensor, target: Tensor, classes: int) -> float:
    """Accuracy in percent under the most favourable renaming of the predicted classes."""
    from scipy.optimize import linear_sum_assignment  # takes 0.4 s to import; only for bad teachers

    pairs = (target * classes + predicted).bincount(minlength=classes**2)
    counts = pairs.view(classes, classes).cpu().numpy()
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return 100.0 * counts[rows, columns].sum().item() / len(target)
