"""The loss on labels: values by hand, equality with timm, and its use by methods."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.jobs import job, setup_of
from helpers.outputs import batch_of, context_of, output_of
from torch import Tensor

from kd_bench.config.schema import LabelLossName, RecipeConfig
from kd_bench.methods.common.label_loss import LabelLoss
from kd_bench.methods.dml import MutualLearning

BCE = LabelLossName.bce
LN2 = math.log(2)
# The sigmoid is 1/2, 3/4, 1/4: -log2 of it is 1, 2 - log2(3), 2, and of the rest 1, 2, 2 - log2(3)
LOGITS = torch.tensor([[0.0, math.log(3), -math.log(3)]])
QUARTER, THREE_QUARTERS = 2 * LN2, 2 * LN2 - math.log(3)


def loss(target: Tensor, **values: float) -> float:
    return LabelLoss(BCE, **values)(LOGITS, target).item()


def test_binary_cross_entropy_is_the_mean_over_classes():
    assert loss(torch.tensor([1])) == pytest.approx((LN2 + 2 * THREE_QUARTERS) / 3)
    assert loss(torch.tensor([2])) == pytest.approx((LN2 + 2 * QUARTER) / 3)


def test_class_probabilities_weight_both_terms_of_each_class():
    shares = torch.tensor([[0.0, 0.75, 0.25]])
    second = 0.75 * THREE_QUARTERS + 0.25 * QUARTER
    third = 0.25 * QUARTER + 0.75 * THREE_QUARTERS
    assert loss(shares) == pytest.approx((LN2 + second + third) / 3)


def test_probabilities_above_the_threshold_become_1_and_others_0():
    shares = torch.tensor([[0.0, 0.75, 0.25]])
    assert loss(shares, threshold=0.2) == pytest.approx((LN2 + THREE_QUARTERS + QUARTER) / 3)
    assert loss(shares, threshold=0.25) == pytest.approx(loss(torch.tensor([1])))


def test_labels_are_smoothed_as_in_cross_entropy():
    smoothed = torch.tensor([[0.1, 0.8, 0.1]])  # a part of 0.3, evenly over three classes
    assert loss(torch.tensor([1]), smoothing=0.3) == pytest.approx(loss(smoothed))
    assert loss(torch.tensor([1]), smoothing=0.3, threshold=0.05) == pytest.approx(
        (LN2 + THREE_QUARTERS + QUARTER) / 3  # all three labels are above it
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_binary_cross_entropy_equals_timms(smoothing, threshold):
    pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
    losses = pytest.importorskip("timm.loss", reason="timm is not installed: pip install timm")
    from timm.data.mixup import mixup_target

    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    target = torch.arange(8) % 5
    theirs = losses.BinaryCrossEntropy(smoothing=smoothing, target_threshold=threshold)
    ours = LabelLoss(BCE, smoothing, threshold)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))
    # timm smooths labels before it mixes them; its partner of an image is at the other end
    mixed = mixup_target(target, 5, 0.7, smoothing)
    shares = 0.7 * torch.eye(5)[target] + 0.3 * torch.eye(5)[target.flip(0)]
    torch.testing.assert_close(ours(logits, shares), theirs(logits, mixed))


def test_the_recipes_loss_is_the_methods_ce(tmp_path):
    chosen = ("recipe.label_loss=bce", "recipe.label_smoothing=0.1", "recipe.target_threshold=0.2")
    work = setup_of(job(tmp_path, "method=baseline", *chosen))
    assert work.method.label_loss == LabelLoss(BCE, 0.1, 0.2)
    context = context_of({}, {})
    batch = batch_of(context, 2)
    logits = output_of(torch.tensor([[2.0, -1.0, 0.0, 1.0]]).expand(2, 4))
    terms = work.method(logits, None, batch)
    assert terms["ce"] == LabelLoss(BCE, 0.1, 0.2)(logits.logits, batch.target)


def test_the_default_is_cross_entropy():
    recipe = RecipeConfig("r", epochs=1, batch_size=1, lr=1.0)
    value = LabelLoss.of(recipe)(LOGITS, torch.tensor([0]))
    assert value.item() == pytest.approx(math.log(1 + 3 + 1 / 3))


def test_the_peer_in_mutual_learning_uses_the_recipes_loss_on_labels():
    context = replace(context_of({}, {}), label_loss=LabelLoss(BCE))
    zeros = output_of(torch.zeros(2, context.num_classes))
    terms = MutualLearning(context)(zeros, zeros, batch_of(context, 2))
    assert terms["peer_ce"].item() == pytest.approx(LN2)
