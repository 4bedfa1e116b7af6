"""RSD: correlations of channels by hand and in a loop, and invariances."""

from __future__ import annotations

import pytest
import torch
from helpers.maps import without_adapter
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.rsd import RedundancySuppression

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})


def make(context: LossContext = CONTEXT, widening: int = 2) -> RedundancySuppression:
    torch.manual_seed(0)
    return RedundancySuppression(context, widening)


def plain() -> RedundancySuppression:
    return without_adapter(make(), "projector")


def terms(loss: RedundancySuppression, student: Tensor, teacher: Tensor) -> dict[str, float]:
    both = output_of(pooled=student), output_of(pooled=teacher)
    value = loss(*both, batch_of(CONTEXT, len(student)))
    return {name: term.item() for name, term in value.items()}


def test_two_channels_by_hand():
    # Four images. The student's channels are -1, -1, 1, 1 and -1, 1, -1, 1, uncorrelated. The
    # teacher's are the same, with the second negated. R = [[1, 0], [0, -1]]: (1 + 1)^2.
    first, second = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([3.0, 5.0, 3.0, 5.0])
    student = torch.stack([first, second], 1)
    value = terms(plain(), student, torch.stack([10 * first, -second], 1))
    assert value == pytest.approx({"same": 4.0, "others": 0.0}, abs=1e-6)
    # The channels swapped: R = [[0, 1], [1, 0]]
    value = terms(plain(), student, torch.stack([second, first], 1))
    assert value == pytest.approx({"same": 2.0, "others": 2.0}, abs=1e-6)


def test_it_matches_a_slow_loop():
    loss = make().double()
    student, teacher = rand(8, 3), rand(8, 5, seed=1)
    projected = loss.projector(student).detach()
    both = [[(x - x.mean()) / x.std(correction=0) for x in net.T] for net in (teacher, projected)]
    same = others = 0.0
    for c, t in enumerate(both[0]):
        for d, s in enumerate(both[1]):
            r = (t * s).mean().item()
            same += (r - 1) ** 2 if c == d else 0
            others += r**2 if c != d else 0
    assert terms(loss, student, teacher) == pytest.approx({"same": same, "others": others})


def test_the_projector_is_linear_norm_gelu_linear_without_biases():
    loss = make(widening=4).double()
    first, _, _, last = loss.projector
    assert first.weight.shape == (12, 3)
    assert first.bias is None
    assert last.bias is None
    x = rand(6, 3)
    middle = torch.nn.functional.batch_norm(x @ first.weight.T, None, None, training=True)
    expected = torch.nn.functional.gelu(middle) @ last.weight.T
    torch.testing.assert_close(loss.projector(x), expected)


def test_shift_and_scale_of_channels_change_nothing():
    student, teacher = rand(6, 4), rand(6, 4, seed=1)
    moved = teacher * torch.tensor([0.1, 1.0, 10.0, 1e3]) + torch.tensor([5.0, 0.0, -3.0, 1.0])
    assert terms(plain(), student, moved) == pytest.approx(terms(plain(), student, teacher))


def test_equal_uncorrelated_channels_have_no_loss():
    x = torch.linalg.qr(torch.cat([torch.ones(8, 1).double(), rand(8, 3)], 1))[0][:, 1:]
    assert terms(plain(), x, 3 * x) == pytest.approx({"same": 0, "others": 0}, abs=1e-12)


def test_a_single_image_has_no_correlations():
    loss = make()
    value = terms(loss, torch.ones(1, 3), torch.ones(1, 5))
    assert value == {"same": 5.0, "others": 0.0}


def test_a_widening_of_zero_is_refused():
    with pytest.raises(UserError, match="widening must be 1 or more, got 0"):
        make(widening=0)
