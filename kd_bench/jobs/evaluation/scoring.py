"""Metrics of the logits of all test images: likelihood, calibration, fidelity to the teacher.

All are computed in double precision on the CPU, from logits in single precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.data.dataset import Data
from kd_bench.models.features import FeatureExtractor
from kd_bench.results.record import Metrics
from kd_bench.training.loop import all_logits

TOP = 5
BINS = 15  # of the confidence, of equal width
TEMPERATURES = (0.01, 100.0)  # bounds of the fitted temperature


@dataclass(frozen=True)
class StudentLogits:
    """A student's logits in single precision, on the CPU."""

    test: Tensor  # [N, K]
    validation: Tensor | None  # [V, K]; None without validation images


def student_logits(net: FeatureExtractor, data: Data) -> StudentLogits:
    """The logits of the test images, and of the validation images if there are any."""
    validation = None if data.validation is None else all_logits(net, data, data.validation)
    return StudentLogits(all_logits(net, data, data.test), validation)


def measure(student: StudentLogits, teacher: Tensor | None, data: Data) -> Metrics:
    """The metrics of a student.

    Args:
        student: its logits.
        teacher: its teacher's logits on the test images, [N, K] on the CPU; None without a teacher.
        data: the dataset, for its labels.
    """
    logits, target = student.test, data.test.target.cpu()
    temperature = scaled = None
    if student.validation is not None and data.validation is not None:
        temperature = best_temperature(student.validation, data.validation.target.cpu())
        scaled = calibration_error(logits.double() / temperature, target)
    return Metrics(
        top5=top_accuracy(logits, target),
        nll=negative_log_likelihood(logits, target),
        ece=calibration_error(logits, target),
        temperature=temperature,
        ece_scaled=scaled,
        kl=None if teacher is None else divergence(teacher, logits),
        teacher_errors=None if teacher is None else agreement_on_errors(teacher, logits, target),
        per_class=class_accuracies(logits, target),
    )


def top_accuracy(logits: Tensor, target: Tensor) -> float | None:
    """Percent of images [N] whose class is among the five largest logits [N, K].

    None with five classes or fewer, where it would always be 100.
    """
    if logits.shape[1] <= TOP:
        return None
    return _percent((logits.topk(TOP, dim=1).indices == target[:, None]).any(1))


def negative_log_likelihood(logits: Tensor, target: Tensor) -> float:
    """mean(-log p_y) in nats, p = softmax of logits [N, K], y the labels [N]."""
    return F.cross_entropy(logits.double(), target).item()


def calibration_error(logits: Tensor, target: Tensor) -> float:
    """Expected calibration error of logits [N, K] in percent, with 15 bins of equal width.

    sum_m |B_m| / N * |accuracy(B_m) - confidence(B_m)|, where B_m are the images whose largest
    probability is in ((m - 1) / 15, m / 15]. On Calibration of Modern Neural Networks (Guo et al.,
    2017), arXiv:1706.04599, eq. 3.
    """
    confidence, answer = logits.double().softmax(1).max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gap = (answer == target).double() - confidence
    # |B_m| cancels: |B_m| * |mean gap| = |sum of the gaps|
    return 100 * torch.zeros(BINS).double().index_add_(0, bins, gap).abs().sum().item() / len(gap)


def best_temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature T that minimizes the negative log-likelihood of logits / T [N, K].

    Restricted to 0.01..100, because the loss has no minimum if every image is classified
    correctly. Guo et al., section 4.2.
    """
    from scipy.optimize import minimize_scalar  # takes 0.4 s to import; only with validation images

    low, high = map(math.log, TEMPERATURES)

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits.double() / math.exp(log_temperature), target)

    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def divergence(teacher: Tensor, student: Tensor) -> float:
    """mean(KL(p_t || p_s)) in nats at temperature 1, from logits [N, K].

    The measure of fidelity in Does Knowledge Distillation Really Work? (Stanton et al., 2021),
    arXiv:2106.05945.
    """
    logs = student.double().log_softmax(1), teacher.double().log_softmax(1)
    return F.kl_div(*logs, reduction="batchmean", log_target=True).item()


def agreement_on_errors(teacher: Tensor, student: Tensor, target: Tensor) -> float | None:
    """Percent of the teacher's errors on which the student predicts the same class as the teacher.

    Args:
        teacher: logits [N, K].
        student: logits [N, K].
        target: labels [N].

    Returns:
        None for a teacher without errors.
    """
    answer = teacher.argmax(1)
    is_wrong = answer != target
    return _percent((student.argmax(1) == answer)[is_wrong]) if is_wrong.any() else None


def class_accuracies(logits: Tensor, target: Tensor) -> list[float | None]:
    """Accuracy in percent on the images of each class; None for a class without images."""
    classes = logits.shape[1]
    images = target.bincount(minlength=classes).tolist()
    correct = target[logits.argmax(1) == target].bincount(minlength=classes).tolist()
    return [100.0 * c / n if n else None for c, n in zip(correct, images, strict=True)]


def _percent(flags: Tensor) -> float:
    return 100.0 * flags.sum().item() / len(flags)


def to_half(logits: Tensor) -> Tensor:
    """Logits in half precision for storage, clamped to its range."""
    largest = torch.finfo(torch.half).max
    return logits.clamp(-largest, largest).half()
