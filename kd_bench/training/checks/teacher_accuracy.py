"""The accuracy of a given teacher, before it teaches: near chance, or another than expected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scipy.optimize import linear_sum_assignment
from torch import Tensor

from kd_bench.data.data import Data
from kd_bench.models.adapted_input import AdaptedInput, ExpectedImages, GivenImages
from kd_bench.models.features import FeatureExtractor
from kd_bench.training.loop import accuracy, predictions
from kd_bench.utils.errors import UserError, require

OFF = 2.0  # points that a teacher's accuracy may differ from what is expected
NEAR_CHANCE = 5.0  # points above that of the most frequent class
# Points by which another reading of images or classes must be better to be the likely cause. By
# the best order of classes, a random answer seems to be some points better than chance, too.
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
        predicted: the class [N] of each test image according to the teacher.
        expected: its accuracy in percent; None: anything that is not near chance.

    Raises:
        UserError: with both numbers and the likely cause.
    """
    target = data.test.target
    measured = accuracy(predicted, target)
    chance = 100.0 * target.bincount().max().item() / len(target)
    if expected is None:
        is_right = measured > chance + NEAR_CHANCE
        other = f"near chance ({chance:.2f} %)"
        meant = f"; if that is meant, teacher.expected_accuracy={measured:.2f}"
    else:
        is_right = abs(measured - expected) <= OFF
        other, meant = f"and teacher.expected_accuracy is {expected:.2f} %", ""
    if is_right:
        return
    better, cause = max(_causes(network, data, predicted))
    is_expected = expected is not None and abs(better - expected) <= OFF
    if not is_expected and better - max(measured, chance) < CLEARLY_BETTER:
        cause = (
            "other images or classes than it was trained on, or not the trained weights (other"
            f" normalisations and orders of the classes do not explain it){meant}"
        )
    raise UserError(
        f"the teacher in {path} classifies {measured:.2f} % of the test images correctly, {other}:"
        f" {cause}"
    )


def check_expected(expected: float | None, checkpoint: str | None) -> None:
    """Refuse an expected accuracy that is none, or that of no file."""
    require(
        expected is None or checkpoint is not None,
        "teacher.expected_accuracy is that of teacher.checkpoint, which is not given",
    )
    require(
        expected is None or 0 <= expected <= 100,
        f"teacher.expected_accuracy must be from 0 to 100 (percent), got {expected}",
    )


def _causes(
    network: FeatureExtractor, data: Data, predicted: Tensor
) -> Iterator[tuple[float, str]]:
    """The teacher's accuracy without each of the likely causes, and the cause."""
    target = data.test.target
    for name, (mean, std) in NORMALISATIONS.items():
        other = _fed(network, data, mean, std)
        correct = accuracy(predictions(other, data, data.test), target)
        yield (
            correct,
            f"it was trained on images normalised otherwise, {name} it is {correct:.2f} %:"
            f" teacher.model.mean={_joined(mean)} teacher.model.std={_joined(std)}",
        )
    correct = _best_order(predicted, target, data.num_classes)
    yield correct, f"its classes are in another order, in the best order it is {correct:.2f} %"


def _fed(
    network: FeatureExtractor, data: Data, mean: list[float], std: list[float]
) -> FeatureExtractor:
    """The teacher with images of another mean and deviation, and of the size that it has now."""
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
    """Accuracy in percent if each predicted class is renamed in the most favourable way."""
    pairs = (target * classes + predicted).bincount(minlength=classes**2)
    counts = pairs.view(classes, classes).cpu().numpy()
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return 100.0 * counts[rows, columns].sum().item() / len(target)
