"""CAT-KD: class activation maps compared with rewritten networks, and invariances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.outputs import (
    batch_of,
    context_of,
    has_finite_value_and_gradient,
    output_of,
    passes_gradcheck,
    rand,
)
from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Networks, Output, StageShapes, UserError
from kd_bench.methods.cat_kd import ClassAttentionTransfer

PATHS = {"stage3": "layer3", "pooled": "fc:input"}
UNCHANGED = Networks(lambda x: x, None, nn.Identity(), nn.Identity())  # channels are classes


def shapes(name: str, channels: int, size: int) -> StageShapes:
    return StageShapes(name, {"stage3": (channels, size, size), "pooled": (channels,)}, PATHS)


def context(student: StageShapes, teacher: StageShapes) -> LossContext:
    return replace(context_of({}, {}), student=student, teacher=teacher)


CONTEXT = context(shapes("small", 4, 4), shapes("large", 4, 8))


def make(given: LossContext = CONTEXT, resolution: int = 2, normalize: bool = False):
    return ClassAttentionTransfer(given, "stage3", resolution, normalize)


def value(
    loss: ClassAttentionTransfer, student: Tensor, teacher: Tensor, networks: Networks = UNCHANGED
) -> Tensor:
    both = (output_of(stage3=x) for x in (student, teacher))
    return loss(*both, batch_of(CONTEXT, len(student)), networks)


def networks() -> tuple[nn.Linear, nn.Linear, Networks]:
    torch.manual_seed(0)
    student, teacher = nn.Linear(3, 4).double(), nn.Linear(5, 4).double()
    return student, teacher, Networks(lambda x: x, None, student, teacher)


def test_a_value_by_hand():
    # One class of weight 2, whose bias of 7 does not count: maps 2 (1, 3) against 2 (0, 0), or at
    # resolution 1, 2 (2) against 0: (4 + 36) / 2 and 16
    layer = nn.Linear(1, 1)
    layer.weight.data.fill_(2.0)
    layer.bias.data.fill_(7.0)
    row = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])
    both = Networks(lambda x: x, None, layer, layer)
    for resolution, expected in ((2, 20.0), (1, 16.0)):
        loss = make(resolution=resolution)
        assert value(loss, row, torch.zeros(1, 1, 2, 2), both).item() == pytest.approx(expected)


@pytest.mark.parametrize("normalize", [False, True])
def test_maps_equal_a_convolution_before_average_pooling(normalize):
    fc_s, fc_t, both = networks()
    student, teacher = rand(6, 3, 4, 4), rand(6, 5, 8, 8, seed=1)
    maps = []
    for fc, features in ((fc_s, student), (fc_t, teacher)):
        full = F.conv2d(features, fc.weight[:, :, None, None])
        pooled = F.adaptive_avg_pool2d(full, 2)
        maps.append(F.normalize(pooled, dim=(2, 3)) if normalize else pooled)
    loss = make(context(shapes("s", 3, 4), shapes("t", 5, 8)), normalize=normalize)
    assert value(loss, student, teacher, both).item() == pytest.approx(F.mse_loss(*maps).item())


def test_at_resolution_one_logits_without_biases_are_compared():
    fc_s, fc_t, both = networks()
    student, teacher = rand(6, 3, 4, 4), rand(6, 5, 4, 4, seed=1)
    s, t = (fc(x.mean((2, 3))) - fc.bias for fc, x in ((fc_s, student), (fc_t, teacher)))
    loss = make(context(shapes("s", 3, 4), shapes("t", 5, 4)), resolution=1)
    assert value(loss, student, teacher, both).item() == pytest.approx((s - t).pow(2).mean().item())


def test_normalized_maps_ignore_the_scale_of_each_class_of_the_teacher():
    student, teacher = rand(3, 4, 4, 4), rand(3, 4, 8, 8, seed=1)
    scale = torch.tensor([0.1, 1.0, 5.0, 100.0]).view(4, 1, 1).double()
    loss = make(normalize=True)
    torch.testing.assert_close(value(loss, student, teacher), value(loss, student, teacher * scale))


def test_the_students_classifier_learns_except_its_bias():
    fc_s, fc_t, both = networks()
    fc_t.requires_grad_(False)
    loss = make(context(shapes("s", 3, 4), shapes("t", 5, 8)))
    value(loss, rand(2, 3, 4, 4), rand(2, 5, 8, 8), both).backward()
    assert fc_s.weight.grad.any()
    assert fc_s.bias.grad.abs().max() < 1e-12


class Classified(ClassAttentionTransfer):
    """The loss with identity classifiers, so that it needs no networks."""

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return super().forward(student, teacher, batch, UNCHANGED)


def classified(given: LossContext = CONTEXT) -> Classified:
    return Classified(given, "stage3", resolution=2, normalize=True)


def test_it_passes_gradcheck():
    assert passes_gradcheck(classified(), CONTEXT)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_it_stays_finite(scale):
    assert has_finite_value_and_gradient(classified(), CONTEXT, scale)


def test_a_resolution_of_zero_is_refused():
    with pytest.raises(UserError, match="resolution must be 1 or more, got 0"):
        make(resolution=0)


def test_a_map_that_is_not_classified_is_refused():
    other = StageShapes("wide", {"stage3": (4, 4, 4), "pooled": (8,)}, PATHS)
    with pytest.raises(UserError, match="CAT-KD needs the map whose average is classified, but wi"):
        make(context(shapes("small", 4, 4), other))
