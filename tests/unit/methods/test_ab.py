"""AB: activation boundaries, margins and connectors."""

from __future__ import annotations

import pytest
import torch
from helpers.maps import channels
from helpers.outputs import batch_of, context_of, output_of, rand
from helpers.shipped import load
from torch import nn

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.ab import ActivationBoundary, boundary_distance

STAGES = {
    "stage1": (2, 2, 2),
    "stage1_pre": (2, 2, 2),
    "stage2": (2, 1, 2),
    "stage2_pre": (2, 1, 2),
    "stage3": (2, 1, 1),
    "stage3_pre": (2, 1, 1),
}
EQUAL = context_of(STAGES, STAGES)
WIDER = context_of(STAGES, {stage: (3, *size) for stage, (_, *size) in STAGES.items()})
BATCH = batch_of(EQUAL, 2)


def ab(context: LossContext = WIDER, stages=("stage1", "stage2"), margin=1.0) -> ActivationBoundary:
    return ActivationBoundary(context, stages, margin)


def test_values_within_the_margin_or_on_the_wrong_side_are_penalized():
    # Teacher active: 2 is beyond the margin, 1/2 misses it by 1/2. Inactive: -1/2 misses it by 1/2,
    # -2 is beyond, 1 misses it by 2. Zero counts as inactive. (1/4 + 1/4 + 4) = 4.5
    student = channels([2.0, 0.5, -0.5, -2.0, 1.0])
    teacher = channels([9.0, 1.0, 0.0, -1.0, -7.0])
    assert boundary_distance(student, teacher, 1.0).tolist() == [4.5]


def test_it_matches_the_case_distinction_of_the_paper():
    student, teacher, margin = rand(2, 3, 2, 2) * 2, rand(2, 3, 2, 2, seed=1), 0.7
    for image in range(2):
        expected = 0.0
        for s, t in zip(student[image].flatten(), teacher[image].flatten(), strict=True):
            if t <= 0 and s > -margin:
                expected += float(s + margin) ** 2
            if t > 0 and s <= margin:
                expected += float(s - margin) ** 2
        assert boundary_distance(student, teacher, margin)[image].item() == pytest.approx(expected)


def test_only_the_signs_of_the_teacher_matter():
    student, teacher = rand(2, 3, 2, 2), rand(2, 3, 2, 2, seed=1)
    once = boundary_distance(student, teacher, 1.0)
    assert torch.equal(boundary_distance(student, 1e-3 * teacher, 1.0), once)


def test_the_loss_is_zero_for_equal_activation_patterns_beyond_the_margin():
    teacher = rand(2, 3, 2, 2)
    student = (2.5 * teacher.sign()).requires_grad_()
    value = boundary_distance(student, teacher, 2.0).sum()
    (gradient,) = torch.autograd.grad(value, student)
    assert value == 0
    assert not gradient.any()


def test_stage_weights_are_a_quarter_a_half_and_one_and_images_are_averaged():
    # All values are zero and miss the margin by 1: the distance is the number of values, 8, 4 and 2
    # in each of two images.
    loss = ab(EQUAL, ["stage1", "stage2", "stage3"])
    zeros = output_of(**{stage: torch.zeros(2, *STAGES[stage]) for stage in loss.stages})
    assert loss(zeros, zeros, BATCH).item() == 8 / 4 + 4 / 2 + 2


def test_connectors_exist_only_if_channels_differ():
    equal = ab(EQUAL).connectors["stage1_pre"]
    assert isinstance(equal, nn.Identity)
    assert ab().connectors["stage1_pre"](torch.zeros(2, 2, 2, 2)).shape == (2, 3, 2, 2)


@pytest.mark.parametrize("margin", [0.0, -1.0, None])
def test_a_margin_that_is_not_above_zero_is_refused(margin):
    with pytest.raises(UserError, match=r"^margin must be a number above 0, got "):
        ab(margin=margin)


def test_a_network_without_a_pre_relu_stage_is_refused():
    with pytest.raises(
        UserError, match=r"^unknown stage 'stage1_pre' of small; choose from stage1$"
    ):
        ab(context_of({"stage1": (2, 2, 2)}, STAGES), ["stage1"])


def test_the_main_phase_cancels_the_squared_temperature():
    config = load("method", "ab")
    temperature = config.losses["st"]["temperature"]
    assert config.weights["st"] * temperature**2 == pytest.approx(1.0)
    assert config.weights["ce"] == 0.0
