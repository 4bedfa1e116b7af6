"""AFD: channel distances, weighted by a trained attention."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.maps import channels
from helpers.outputs import batch_of, context_of, output_of

from kd_bench.interfaces import UserError
from kd_bench.methods.afd import AttentiveFeatures, channel_distance

CONTEXT = context_of(
    {"stage1": (2, 2, 4), "stage2": (2, 1, 2)}, {"stage1": (2, 1, 2), "stage2": (2, 1, 2)}
)
BATCH = batch_of(CONTEXT, 2)
STUDENT = channels([3.0, 4.0], [1.0, 0.0])
TEACHER = channels([4.0, 3.0], [0.0, 1.0])


def afd(*stages: str, bias: tuple[float, float] = (0.0, 0.0)) -> AttentiveFeatures:
    """The loss with a constant attention: the sigmoids of `bias`, normalized."""
    loss = AttentiveFeatures(CONTEXT, stages or ["stage1"])
    for attention in loss.attention.values():
        attention.layers[2].weight.data.zero_()
        attention.layers[2].bias.data.copy_(torch.tensor(bias))
    return loss


def test_unit_length_channels_are_compared_by_mean_squared_error():
    # [3, 4] and [4, 3] over 5: (0.2^2 + 0.2^2) / 2 = 0.04; [1, 0] and [0, 1]: 1
    assert channel_distance(STUDENT, TEACHER)[0].tolist() == pytest.approx([0.04, 1.0])


def test_the_attention_weights_the_channels():
    # Sigmoids of ln 3 and -ln 3 are 3/4 and 1/4; of 0 and 0, 1/2 and 1/2; of -ln 2 and -ln 5,
    # 1/3 and 1/6, which are 2/3 and 1/3 of their sum.
    student, teacher = output_of(stage1=STUDENT), output_of(stage1=TEACHER)
    even, first, small = (
        afd(bias=bias)(student, teacher, BATCH).item()
        for bias in ((0, 0), (math.log(3), -math.log(3)), (-math.log(2), -math.log(5)))
    )
    assert even == pytest.approx((0.04 + 1) / 2)
    assert first == pytest.approx(0.75 * 0.04 + 0.25 * 1)
    assert small == pytest.approx(2 / 3 * 0.04 + 1 / 3 * 1)


def test_it_is_the_mean_over_stages_and_images():
    same = output_of(stage1=STUDENT, stage2=TEACHER)
    teacher = output_of(stage1=TEACHER, stage2=TEACHER)
    assert afd("stage1", "stage2")(same, teacher, BATCH).item() == pytest.approx(0.52 / 2)
    twice = [
        output_of(stage1=torch.cat([x, y])) for x, y in ((STUDENT, TEACHER), (TEACHER, TEACHER))
    ]
    assert afd()(*twice, BATCH).item() == pytest.approx(0.52 / 2)


def test_the_scale_of_a_channel_does_not_matter():
    factors = torch.tensor([7.0, 0.1]).view(1, 2, 1, 1)
    scaled = afd()(output_of(stage1=factors * STUDENT), output_of(stage1=TEACHER), BATCH)
    assert scaled.item() == pytest.approx(0.52)


def test_the_attention_moves_to_channels_that_agree():
    # The attention is trained to minimize the loss that it weights.
    torch.manual_seed(0)
    loss = AttentiveFeatures(CONTEXT, ["stage1"])
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss(output_of(stage1=STUDENT), output_of(stage1=TEACHER), BATCH).backward()
        optimizer.step()
    (rho,) = loss.attention["stage1"](TEACHER)
    assert rho[0] > 0.9
    assert rho.sum().item() == pytest.approx(1)


def test_an_attention_with_underflowing_sigmoids_sums_to_one():
    attention = afd(bias=(-1e4, -1e4 - math.log(3))).attention["stage1"]
    # Sigmoids of such numbers are zero in single precision; their ratio is 3.
    assert attention(TEACHER)[0].tolist() == pytest.approx([0.75, 0.25], rel=1e-2)


def test_unequal_channels_are_refused_with_both_shapes():
    unequal = context_of({"stage1": (2, 4, 4)}, {"stage1": (3, 4, 4)})
    with pytest.raises(UserError, match=r"^AFD needs equal channels, but stage1 is 2x4x4 in small"):
        AttentiveFeatures(unequal, ["stage1"])
