"""FitNets: the hint, and the soft targets with a decreasing weight."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.maps import without_adapter
from helpers.outputs import batch_of, context_of, output_of, rand

from kd_bench.interfaces import UserError
from kd_bench.methods.fitnet import AnnealedTarget, Hint
from kd_bench.models.features import FeatureExtractor, probe_shapes
from kd_bench.models.resnet import ResNet

STAGES = {"stage2": (2, 2, 2), "pooled": (2,)}
CONTEXT = context_of(STAGES, {"stage2": (3, 2, 2), "pooled": (3,)})
BATCH = batch_of(CONTEXT, 2)


def test_the_hint_is_the_mean_square_over_all_values():
    # ((1 - 0)^2 + (2 - 4)^2 + 0 + 1^2) / 4 = 1.5
    loss = without_adapter(Hint(CONTEXT, "stage2"), "regressor")
    student = output_of(stage2=torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2))
    teacher = output_of(stage2=torch.tensor([0.0, 4.0, 3.0, 5.0]).view(1, 1, 2, 2))
    assert loss(student, teacher, BATCH).item() == 1.5


def test_the_hint_compares_the_regressed_map_with_the_teachers():
    loss = Hint(CONTEXT, "stage2")
    student = rand(4, 2, 2, 2).float()
    teacher = loss.regressor(student)
    assert teacher.shape == (4, 3, 2, 2)
    assert loss(output_of(stage2=student), output_of(stage2=teacher), BATCH).item() == 0
    assert loss(
        output_of(stage2=student), output_of(stage2=teacher + 1), BATCH
    ).item() == pytest.approx(1)


def test_the_hint_trains_the_student_up_to_its_stage_and_no_further():
    # The paper's first phase trains the layers up to the guided one, and the regressor.
    net = ResNet(3, 8, [8, 8, 16, 16])
    stages = probe_shapes(net, net.stages, (8, 8), "small")
    loss = Hint(context_of(stages, stages), "stage2")
    student = FeatureExtractor(net, net.stages, loss.stages, "small")(torch.randn(4, 3, 8, 8))
    loss(student, output_of(stage2=torch.rand(4, 16, 4, 4)), BATCH).backward()
    guided = {name for name, p in net.named_parameters() if p.grad is not None}
    assert guided == {
        name
        for name, _ in net.named_parameters()
        if name.startswith(("conv1", "bn1", "layer1", "layer2"))
    }
    assert all(p.grad.any() for p in loss.regressor[0].parameters() if p.dim() > 1)


def test_a_stage_that_is_not_a_map_is_refused():
    with pytest.raises(UserError, match=r"^stage 'pooled' of small is not a map \[C, H, W\]"):
        Hint(CONTEXT, "pooled")


def targets(first: float = 4.0, last: float = 1.0, epochs: int = 1) -> AnnealedTarget:
    return AnnealedTarget(replace(CONTEXT, epochs=epochs), temperature=3.0, first=first, last=last)


def divergence(loss: AnnealedTarget, epoch: int) -> float:
    teacher = output_of(torch.tensor([[3 * math.log(3), 0.0]]))
    batch = replace(BATCH, epoch=torch.tensor(float(epoch)))
    return loss(output_of(torch.zeros(1, 2)), teacher, batch).item()


def test_the_weight_of_the_soft_targets_decreases_linearly():
    # softmax([3 ln 3, 0] / 3) = [3/4, 1/4] against [1/2, 1/2]: 3/4 ln(3/2) + 1/4 ln(1/2)
    # = 0.130812. Of five epochs, the first has four times this, the third 2.5, the last once.
    loss = targets(first=4.0, last=1.0, epochs=5)
    assert divergence(loss, 1) == pytest.approx(4 * 0.130812, abs=1e-5)
    assert divergence(loss, 3) == pytest.approx(2.5 * 0.130812, abs=1e-5)
    assert divergence(loss, 5) == pytest.approx(0.130812, abs=1e-5)


def test_a_single_epoch_uses_the_first_weight():
    assert divergence(targets(epochs=1), 1) == pytest.approx(4 * 0.130812, abs=1e-5)


def test_with_weight_one_the_gradient_is_that_of_cross_entropy_with_the_teacher():
    # Equation 2 of the paper: its gradient, (softmax(z / T) - p) / T / B, has no factor T^2.
    loss = targets(first=1.0, last=1.0)
    student, teacher = rand(4, 2).requires_grad_(), rand(4, 2, seed=1)
    (gradient,) = torch.autograd.grad(loss(output_of(student), output_of(teacher), BATCH), student)
    expected = ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 3 / 4
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0}, r"^temperature must be a number above 0, got 0$"),
        ({"first": 0.0}, r"^first must be a number above 0, got 0\.0$"),
        ({"last": -1.0}, r"^last must be 0 or more, got -1\.0$"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        AnnealedTarget(CONTEXT, **({"temperature": 3.0, "first": 4.0, "last": 1.0} | given))
