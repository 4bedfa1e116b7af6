"""Accuracy on corrupted images, for networks with known predictions."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs import config
from torch import nn

from kd_bench.jobs.evaluation import robustness
from kd_bench.jobs.evaluation.corruptions.catalogue import CORRUPTIONS, EXTRA, PART, corrupted
from kd_bench.jobs.evaluation.robustness import measure_corrupted
from kd_bench.jobs.instantiate import build_dataset
from kd_bench.models.features import FeatureExtractor

FEW = {"contrast": CORRUPTIONS["contrast"], "brightness": CORRUPTIONS["brightness"]}


class Constant(nn.Module):
    """Predicts the same class for every image."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, image):
        return torch.eye(4)[self.answer].expand(len(image), 4)


class Bright(nn.Module):
    """Predicts class 1 if the mean of an image is above 0, otherwise class 0."""

    def forward(self, image):
        is_bright = (image.mean((1, 2, 3)) > 0).long()
        return torch.eye(4)[is_bright]


@pytest.fixture
def data(tmp_path):
    return build_dataset(config(tmp_path, "dataset.source.test=300").dataset).load()


def extractor(net):
    return FeatureExtractor(net, {}, (), "net")


def test_each_network_has_its_share_of_correct_predictions(data, monkeypatch):
    monkeypatch.setattr(robustness, "CORRUPTIONS", FEW)
    monkeypatch.setattr(robustness, "EXTRA", {})
    names = []
    first, second = measure_corrupted(
        [extractor(Constant(0)), extractor(Constant(2))], data, names.append
    )
    share = [100 * (data.test.target == k).float().mean().item() for k in (0, 2)]
    assert names == list(FEW)
    assert first.accuracy == {name: [pytest.approx(share[0])] * 5 for name in FEW}
    assert second.accuracy == {name: [pytest.approx(share[1])] * 5 for name in FEW}
    assert first.mean == pytest.approx(share[0])


def test_images_are_corrupted_part_by_part(data, monkeypatch):
    monkeypatch.setattr(robustness, "CORRUPTIONS", {})
    monkeypatch.setattr(robustness, "EXTRA", {"speckle_noise": EXTRA["speckle_noise"]})
    (found,) = measure_corrupted([extractor(Bright())], data, lambda name: None)
    parts = data.test.image.split(PART)
    assert [len(part) for part in parts] == [250, 50]
    made = [corrupted(part, "speckle_noise", 5, number) for number, part in enumerate(parts)]
    is_bright = data.normalise(torch.cat(made)).mean((1, 2, 3)) > 0
    expected = 100 * (is_bright.long() == data.test.target).float().mean().item()
    assert found.extra["speckle_noise"][4] == pytest.approx(expected)


def test_a_network_is_evaluated_in_eval_mode_and_its_mode_is_restored(data, monkeypatch):
    monkeypatch.setattr(robustness, "CORRUPTIONS", FEW)
    monkeypatch.setattr(robustness, "EXTRA", {})
    net = nn.Sequential(nn.BatchNorm2d(3), Bright()).train()
    measure_corrupted([extractor(net)], data, lambda name: None)
    assert net.training
    assert net[0].num_batches_tracked == 0
