"""Accuracy of networks on corrupted test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kd_bench.data.dataset import Data
from kd_bench.jobs.evaluation.corruptions.catalogue import (
    CORRUPTIONS,
    EXTRA,
    PART,
    REVISION,
    corrupted,
)
from kd_bench.jobs.evaluation.corruptions.common import STRENGTHS
from kd_bench.models.features import FeatureExtractor, eval_mode
from kd_bench.results.record import Corrupted


def measure_corrupted(
    nets: Sequence[FeatureExtractor], data: Data, report: Callable[[str], None]
) -> list[Corrupted]:
    """Accuracy of each network on the test images with every corruption.

    Several networks are evaluated together, because corrupting the images takes longer than
    classifying them.

    Args:
        nets: the networks.
        data: the dataset that they were trained on.
        report: called with the name of each corruption before its images are created.
    """
    shares: list[dict[str, list[float]]] = [{} for _ in nets]
    for name in CORRUPTIONS | EXTRA:
        report(name)
        for strength in STRENGTHS:
            for share, correct in zip(shares, _correct(nets, data, name, strength), strict=True):
                share.setdefault(name, []).append(100.0 * correct / len(data.test.target))
    return [
        Corrupted(
            revision=REVISION,
            accuracy={name: share[name] for name in CORRUPTIONS},
            extra={name: share[name] for name in EXTRA},
        )
        for share in shares
    ]


@torch.no_grad()
def _correct(nets: Sequence[FeatureExtractor], data: Data, name: str, strength: int) -> list[int]:
    """The number of corrupted test images that each network classifies correctly."""
    correct = [0] * len(nets)
    for part, plain in enumerate(data.plain_images(data.test, PART)):
        image = data.normalise(corrupted(plain.cpu(), name, strength, part))
        target = data.test.target[part * PART : part * PART + len(plain)]
        for place, net in enumerate(nets):
            with eval_mode(net):
                correct[place] += int((net(image).logits.argmax(1) == target).sum())
    return correct
