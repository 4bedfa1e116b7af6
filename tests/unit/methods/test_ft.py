"""FT: the paraphraser, the translator, and the distance between factors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.maps import channels
from helpers.outputs import batch_of, context_of, output_of, rand

from kd_bench.interfaces import LossContext, Output, UserError
from kd_bench.methods.ft import FactorTransfer, factor_distance

CONTEXT = context_of({"stage3": (4, 3, 3), "pooled": (4,)}, {"stage3": (6, 3, 3), "pooled": (6,)})
BATCH = batch_of(CONTEXT, 2)


def ft(phase: str, rate: float = 0.5, context: LossContext = CONTEXT) -> FactorTransfer:
    torch.manual_seed(0)
    loss = FactorTransfer(context, "stage3", rate)
    loss.on_epoch_start(phase)
    return loss


def outputs() -> tuple[Output, Output]:
    student, teacher = rand(2, 4, 3, 3).float(), rand(2, 6, 3, 3, seed=1).float()
    return output_of(stage3=student), output_of(stage3=teacher.relu())


def test_unit_length_factors_are_compared_by_mean_absolute_difference():
    # The factor of an image has unit length: [3, 0, 0, 4] / 5 and [4, 0, 0, 3] / 5,
    # (0.2 + 0 + 0 + 0.2) / 4 = 0.1; the second image is equal.
    student, teacher = channels([3.0, 0.0], [0.0, 4.0]), channels([4.0, 0.0], [0.0, 3.0])
    both = [torch.cat([x, teacher]) for x in (student, teacher)]
    assert factor_distance(student, teacher).item() == pytest.approx(0.1)
    assert factor_distance(*both).item() == pytest.approx(0.05)


def test_the_scale_of_a_factor_does_not_matter():
    student, teacher = rand(2, 3, 2, 2), rand(2, 3, 2, 2, seed=1)
    torch.testing.assert_close(
        factor_distance(7 * student, 0.1 * teacher), factor_distance(student, teacher)
    )


def test_factors_of_different_size_are_pooled_to_the_smaller_one():
    # [2, 4, 6, 6] averages to [3, 6], which is 3 [1, 2].
    value = factor_distance(channels([2.0, 4.0, 6.0, 6.0]), channels([1.0, 2.0]))
    assert value.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("rate", "factors"), [(0.5, 3), (1.5, 9), (0.01, 1)])
def test_the_channels_of_a_factor_are_the_teachers_times_the_rate(rate, factors):
    loss = ft("main", rate)
    student, teacher = outputs()
    assert loss.encoder(teacher.features["stage3"]).shape == (2, factors, 3, 3)
    assert loss.translator(student.features["stage3"]).shape == (2, factors, 3, 3)
    assert loss.decoder(torch.zeros(2, factors, 3, 3)).shape == (2, 6, 3, 3)


def test_the_encoder_is_three_convolutions_with_leaky_relus():
    loss = ft("main")
    x = outputs()[1].features["stage3"]
    factor = loss.encoder(x)
    for i in (0, 2, 4):
        x = F.conv2d(x, loss.encoder[i].weight, loss.encoder[i].bias, padding=1)
        x = torch.where(x > 0, x, 0.1 * x)
    torch.testing.assert_close(factor, x)


def learning(loss: FactorTransfer, student) -> set[str]:
    """The parts that get a gradient: modules of the loss, and the student."""
    student.features["stage3"].requires_grad_()
    terms = loss(student, outputs()[1], BATCH)
    sum(terms.values()).backward()
    found = {name.split(".")[0] for name, p in loss.named_parameters() if p.grad is not None}
    return found | ({"student"} if student.features["stage3"].grad is not None else set())


def test_the_init_phase_trains_only_the_paraphraser():
    loss = ft("init")
    assert learning(loss, outputs()[0]) == {"encoder", "decoder"}
    assert list(loss(*outputs(), BATCH)) == ["paraphrase"]


def test_the_main_phase_freezes_the_paraphraser_and_trains_student_and_translator():
    loss = ft("main")
    assert learning(loss, outputs()[0]) == {"translator", "student"}
    assert list(loss(*outputs(), BATCH)) == ["factor"]


def test_the_paraphrase_term_is_the_mean_squared_reconstruction_error():
    loss = ft("init")
    teacher = outputs()[1].features["stage3"]
    reconstruction = loss.decoder(loss.encoder(teacher))
    value = loss(*outputs(), BATCH)["paraphrase"]
    assert value.item() == pytest.approx((reconstruction - teacher).square().mean().item())


@pytest.mark.slow
def test_the_paraphraser_learns_to_reconstruct_the_teachers_map():
    loss = ft("init", rate=1.0)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1, momentum=0.9)
    values = []
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(*outputs(), BATCH)["paraphrase"]
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.2 * values[0]


def test_zero_factors_have_a_finite_distance_and_gradient():
    zero = torch.zeros(1, 1, 1, 2, requires_grad=True)
    value = factor_distance(zero, channels([3.0, 4.0]))
    value.backward()
    assert value.item() == pytest.approx(0.7)
    assert zero.grad.abs().max() <= 1


@pytest.mark.parametrize("rate", [0.0, -0.5])
def test_a_rate_that_is_not_above_zero_is_refused(rate):
    with pytest.raises(UserError, match=r"^rate must be a number above 0, got "):
        ft("main", rate)


def test_a_stage_that_is_not_a_map_is_refused():
    with pytest.raises(UserError, match=r"^stage 'pooled' of small is not a map \[C, H, W\]"):
        FactorTransfer(CONTEXT, "pooled", 0.5)
