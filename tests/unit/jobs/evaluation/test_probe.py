"""The linear probe: its features, image sizes, and accuracy compared with scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs import config
from sklearn.linear_model import LogisticRegression
from torch import nn

from kd_bench.data.resident import ResidentData
from kd_bench.jobs.evaluation import probe
from kd_bench.jobs.evaluation.probe import Features, measure_probe, resized, standardized
from kd_bench.jobs.instantiate import build_dataset
from kd_bench.models.features import FeatureExtractor
from kd_bench.utils.errors import UserError


def blobs(count, seed, classes=3, features=8):
    """Overlapping Gaussian clusters, one per class."""
    random = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % classes
    means = torch.randn(classes, features, generator=torch.Generator().manual_seed(9))
    return Features(0.5 * means[target] + torch.randn(count, features, generator=random), target)


def accuracy_of(classifier, test):
    return (classifier(test.value).argmax(1) == test.target).float().mean().item()


@pytest.mark.slow
def test_the_classifier_is_as_accurate_as_scikit_learns():
    train, test = standardized(blobs(600, 0), blobs(600, 1))
    reference = LogisticRegression().fit(train.value.numpy(), train.target.numpy())
    expected = reference.score(test.value.numpy(), test.target.numpy())
    assert 0.5 < expected < 0.95
    found = accuracy_of(probe.train_classifier(train, 3, seed=0), test)
    assert found == pytest.approx(expected, abs=0.02)


def test_its_weights_depend_only_on_the_seed(monkeypatch):
    monkeypatch.setattr(probe, "EPOCHS", 2)
    first, again, other = (
        probe.train_classifier(blobs(200, 0), 3, seed).weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_features_are_standardized_by_the_training_images():
    train = Features(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([0, 1]))
    test = Features(torch.tensor([[4.0, 6.0]]), torch.tensor([0]))
    ready = standardized(train, test)
    assert ready[0].value.tolist() == [[-1, 0], [1, 0]]  # the second feature is constant
    assert ready[1].value.tolist() == [[2, 1]]


def test_images_are_resized_with_antialiasing_unless_they_have_the_size():
    image = torch.arange(4 * 4 * 3, dtype=torch.uint8).view(1, 4, 4, 3)
    assert resized(image, (4, 4)) is image
    one = torch.full((1, 6, 6, 3), 7, dtype=torch.uint8)
    assert torch.equal(resized(one, (4, 3)), one[:, :4, :3])
    # antialiasing: weights 1, 3, 3, 1 (of 8) of the outer and inner pixels
    column = torch.tensor([0, 0, 80, 80], dtype=torch.uint8).view(1, 4, 1, 1).expand(1, 4, 4, 3)
    low, high = resized(column.contiguous(), (2, 2))[0, :, 0, 0].tolist()
    assert (low + high, 0 < low < 40) == (80, True)


@pytest.fixture
def both(tmp_path):
    """Two datasets: of 8x8 pixels and 4 classes, and of 12x12 pixels and 3 classes."""
    own = build_dataset(config(tmp_path).dataset).load()
    words = "dataset.source.size=12", "dataset.source.num_classes=3", "dataset.source.train=90"
    return own, build_dataset(config(tmp_path, *words).dataset).load()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.fc = nn.Linear(3 * 8 * 8, 4)

    def forward(self, image):
        self.seen.append(image.detach().clone())
        return self.fc(image.flatten(1))


@pytest.mark.slow
def test_images_are_resized_and_normalized_for_the_network(both, monkeypatch):
    own, other = both
    assert isinstance(other, ResidentData)
    monkeypatch.setattr(probe, "EPOCHS", 30)
    net = Small()
    found = measure_probe(
        FeatureExtractor(net, {"pooled": "fc:input"}, ("pooled",), "net"), own, other, 0
    )
    assert torch.equal(
        torch.cat(net.seen[-1:])[:24], own.normalise(resized(other.test.image, (8, 8)))
    )
    assert sum(map(len, net.seen)) == 90 + 24
    assert found > 60  # chance is 33


def test_features_that_are_not_finite_are_refused(both):
    own, other = both
    net = Small()
    net.fc = nn.Linear(3 * 8 * 8, 4)
    extractor = FeatureExtractor(
        nn.Sequential(Infinite(), net), {"pooled": "1.fc:input"}, ("pooled",), "net"
    )
    with pytest.raises(UserError, match="its features at pooled are not all finite"):
        measure_probe(extractor, own, other, 0)


class Infinite(nn.Module):
    def forward(self, image):
        return image / 0
