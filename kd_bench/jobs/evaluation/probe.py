"""Linear probe: accuracy on another dataset of a linear classifier on frozen features.

Contrastive Representation Distillation (Tian et al., 2020), arXiv:1910.10699, section 4.1: the
student is frozen, and a linear classifier on its penultimate features is trained on another
dataset, with images resized to the student's input size. The paper leaves some details open; here,
features are computed once, from images without augmentation, and standardized with the statistics
of the training images; SGD with a cosine schedule trains for 100 epochs, and the last one counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.data.data import Labelled
from kd_bench.data.dataset import Data
from kd_bench.models.features import FeatureExtractor, eval_mode
from kd_bench.training.execution import inference_batch_size
from kd_bench.training.loop import accuracy
from kd_bench.utils.errors import require
from kd_bench.utils.seeds import derive_seed

REVISION = 1  # increased when results change, so that older probes are trained again
FEATURES = "pooled"  # the stage that a network's classifier reads
EPOCHS, BATCH_SIZE, LR, MOMENTUM, WEIGHT_DECAY = 100, 64, 0.05, 0.9, 5e-4


@dataclass(frozen=True)
class Features:
    """Features [N, D] of images, and their classes [N], on the CPU."""

    value: Tensor
    target: Tensor


def measure_probe(net: FeatureExtractor, own: Data, other: Data, seed: int) -> float:
    """Accuracy in percent of a linear classifier on all test images of another dataset.

    Args:
        net: with the stage `pooled`.
        own: the dataset that the network was trained on.
        other: the dataset that the classifier is trained on.
        seed: for the classifier's initial weights and the order of its batches.

    Raises:
        UserError: a feature is not finite.
    """
    train, test = (_features(net, own, other, split) for split in (other.train, other.test))
    train, test = standardized(train, test)
    classifier = train_classifier(train, other.num_classes, seed)
    with torch.no_grad():
        return accuracy(classifier(test.value).argmax(1), test.target)


@torch.no_grad()
def _features(net: FeatureExtractor, own: Data, other: Data, split: Labelled) -> Features:
    with eval_mode(net):
        features = [
            net(own.normalise(resized(image.to(own.mean.device), own.image_size)))
            .features[FEATURES]
            .float()
            .flatten(1)
            .cpu()
            for image in other.plain_images(split, inference_batch_size(own))
        ]
    value = torch.cat(features)
    require(bool(value.isfinite().all()), f"its features at {FEATURES} are not all finite")
    return Features(value, split.target.cpu())


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Images uint8 [N, H, W, 3] resized to another height and width: bilinear, antialiased."""
    if image.shape[1:3] == size:
        return image
    channels_first = image.permute(0, 3, 1, 2).float()
    made = F.interpolate(channels_first, size, mode="bilinear", antialias=True)
    return made.round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def standardized(train: Features, test: Features) -> tuple[Features, Features]:
    """Both, scaled to mean 0 and standard deviation 1 on `train`; constant features become 0."""
    deviation, mean = torch.std_mean(train.value, dim=0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1)
    ready = (Features((each.value - mean) / scale, each.target) for each in (train, test))
    return next(ready), next(ready)


def train_classifier(train: Features, num_classes: int, seed: int) -> nn.Linear:
    """A linear classifier on features, trained with SGD on the CPU."""
    random = torch.Generator().manual_seed(derive_seed(seed, "probe"))
    classifier = nn.Linear(train.value.shape[1], num_classes)
    nn.init.normal_(classifier.weight, std=0.01, generator=random)
    nn.init.zeros_(classifier.bias)
    optimizer = torch.optim.SGD(
        classifier.parameters(), LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(train.target), generator=random).split(BATCH_SIZE):
            loss = F.cross_entropy(classifier(train.value[index]), train.target[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return classifier
