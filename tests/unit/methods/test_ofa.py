"""OFA: the enhanced target by hand and in its limits, and the exits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.outputs import K, batch_of, context_of, output_of, rand
from torch import nn

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.ofa import OneForAll, enhanced_cross_entropy

CONTEXT = context_of(
    {"stage1": (2, 8, 8), "stage2": (4, 4, 4), "stage3": (8, 2, 2), "pooled": (8,)},
    {"stage1": (3, 8, 8), "stage2": (6, 4, 4), "stage3": (12, 2, 2), "pooled": (12,)},
)
MAPS = ["stage1", "stage2", "stage3"]


def make(context: LossContext = CONTEXT, exponent: float = 1.5) -> OneForAll:
    torch.manual_seed(0)
    return OneForAll(context, MAPS, exponent)


# --- the distance -----------------------------------------------------------------------------


def test_an_image_by_hand():
    # Teacher (3/4, 1/4), label 0, g = 2: (7/4)^2 - 1 = 33/16 and 1/16. Student (1/2, 1/2).
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    value = enhanced_cross_entropy(student, teacher, torch.tensor([0]), 2.0)
    assert value.item() == pytest.approx(34 / 16 * math.log(2))


def test_exponent_one_is_cross_entropy_with_the_teacher():
    student, teacher, target = 3 * rand(5, K), 3 * rand(5, K, seed=1), torch.arange(5) % K
    expected = F.cross_entropy(student, teacher.softmax(1), reduction="none")
    value = enhanced_cross_entropy(student, teacher, target, 1.0)
    torch.testing.assert_close(value, expected)


def test_a_larger_exponent_moves_weight_to_the_label():
    # The optimal prediction is proportional to the shares: the gradient is zero there.
    teacher, target = rand(1, K), torch.tensor([2])
    p = teacher.softmax(1)
    optima = []
    for g in (1.0, 1.5, 3.0):
        share = p**g
        share[0, 2] = (p[0, 2] + 1) ** g - 1
        student = share.log().requires_grad_()
        value = enhanced_cross_entropy(student, teacher, target, g)
        assert torch.autograd.grad(value, student)[0].abs().max() < 1e-12
        optima.append((share / share.sum())[0, 2].item())
    assert optima[0] == pytest.approx(p[0, 2].item())
    assert optima == sorted(optima)


@pytest.mark.parametrize("exponent", [1.0, 1.5, 4.0])
def test_large_logits_and_two_classes_stay_finite(exponent):
    for classes in (2, 100):
        student = (50 * rand(6, classes).float()).requires_grad_()
        teacher = 1e3 * rand(6, classes, seed=1).float()
        value = enhanced_cross_entropy(student, teacher, torch.arange(6) % classes, exponent).sum()
        value.backward()
        assert value.isfinite()
        assert student.grad.isfinite().all()


# --- the exits --------------------------------------------------------------------------------


def test_logits_and_exits_are_compared_in_the_same_way():
    loss, batch = make().double(), batch_of(CONTEXT, 3)
    maps = {s: rand(3, *CONTEXT.student[s], seed=i) for i, s in enumerate(MAPS)}
    student, teacher = output_of(rand(3, K), **maps), output_of(rand(3, K, seed=9))
    value = loss.per_image(student, teacher, batch)
    logits = [student.logits, *(loss.exits[s](x) for s, x in maps.items())]
    own, *early = (enhanced_cross_entropy(z, teacher.logits, batch.target, 1.5) for z in logits)
    torch.testing.assert_close(value, {"logits": own, "exits": early[0] + early[1] + early[2]})


def test_exits_halve_the_map_once_per_following_stage():
    loss = make()
    for stage, sizes, channels in (
        ("stage1", [4, 4, 4, 4, 2, 2, 2, 2], [2, 2, 2, 4, 4, 4, 4, 12]),
        ("stage2", [2, 2, 2, 2], [4, 4, 4, 12]),
        ("stage3", [2], [12]),
    ):
        x, seen = torch.rand(2, *CONTEXT.student[stage]), []
        for layer in loss.exits[stage]:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                seen.append((x.shape[2], x.shape[1]))
        assert seen == list(zip(sizes, channels, strict=True))
        assert x.shape == (2, K)


def test_an_exponent_below_one_is_refused():
    with pytest.raises(UserError, match=r"exponent must be 1 or more, got 0\.5"):
        make(exponent=0.5)
