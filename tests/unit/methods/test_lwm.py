"""Attention distillation with Grad-CAM: values by hand, and the use of activations."""

import pytest
import torch
from helpers.small_nets import batch, context, rand, smooth
from torch.autograd import gradcheck

from kd_bench.interfaces import Output, UserError
from kd_bench.methods.lwm import AttentionDistillation, grad_cam

LOSS = AttentionDistillation(context(stage3=(2, 1, 2)), "stage3")
# Two channels, two positions, averaged: class 0 has a positive weight for the first channel
STAGE = torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]]])  # [1, 2, 1, 2]
CLASSIFY = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])


def network(stage, classify=CLASSIFY):
    stage = stage.clone().requires_grad_()
    return Output(stage.mean((2, 3)) @ classify.T, {"stage3": stage})


def cam(out, target):
    return grad_cam(out.logits, out.features["stage3"], torch.tensor([target]), create_graph=False)


def test_channels_are_weighted_by_gradient_and_localized_by_activation():
    # dz_0/dF is 2 / 2 positions in the first channel, -1 in the second: 1 * (3, 0) - 1 * (0, 1)
    # = (3, -1), and the ReLU removes evidence against the class
    assert cam(network(STAGE), 0).tolist() == [[[[3.0, 0.0]]]]
    assert cam(network(STAGE), 1).tolist() == [[[[0.0, 1.0]]]]


def test_the_map_follows_activations_for_a_constant_gradient():
    # Before global average pooling the gradient is constant over positions. Squared, as
    # in AberHu/Knowledge-Distillation-Zoo, it would be constant for all images.
    moved = network(STAGE.flip(3))
    assert cam(moved, 0).tolist() == [[[[0.0, 3.0]]]]


def test_it_sums_absolute_differences_of_unit_length_maps():
    # The student's map is (1, 0); the teacher's, for the same class, (4, 3) / 5: |0.2| + |0.6|
    teacher = network(torch.tensor([[[[4.0, 3.0]], [[0.0, 0.0]]]]))
    seen = batch(torch.zeros(1, 3, 1, 1), [0])
    assert LOSS(network(STAGE), teacher, seen).item() == pytest.approx(0.8)


def test_both_maps_are_for_the_class_predicted_by_the_teacher():
    # The label is 1, the teacher predicts 0; its map for class 1 would be zero.
    teacher = network(torch.tensor([[[[4.0, 3.0]], [[0.0, 0.0]]]]))
    seen = batch(torch.zeros(1, 3, 1, 1), [1])
    assert LOSS(network(STAGE), teacher, seen).item() == pytest.approx(0.8)


def test_it_is_the_mean_over_images():
    stages = torch.cat([STAGE, STAGE]), torch.tensor([[[4.0, 3.0], [0.0, 0.0]], [[9, 0], [0, 0]]])
    student, teacher = network(stages[0]), network(stages[1].unsqueeze(2))
    seen = batch(torch.zeros(2, 3, 1, 1), [0, 0])
    assert LOSS(student, teacher, seen).item() == pytest.approx(0.4)  # (0.8 + 0) / 2


def test_it_is_invariant_to_the_scale_of_features_and_logits():
    student, teacher = rand(3, 4, 2, 2).abs(), rand(3, 6, 2, 2, seed=1).abs()
    s, t = rand(5, 4, seed=2), rand(5, 6, seed=3)
    seen = batch(torch.zeros(3, 3, 1, 1), [0, 0, 0])
    value = LOSS(network(student, s), network(teacher, t), seen)
    assert value > 0
    scaled = LOSS(network(7 * student, s), network(teacher, 0.1 * t), seen)
    torch.testing.assert_close(scaled, value)


def test_maps_of_different_size_are_pooled_to_the_smaller_one():
    # The student's four positions, pooled to two, are (3, 1) / sqrt(10), like the teacher's.
    student = network(torch.tensor([[[[4.0, 2.0, 2.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]]]))
    teacher = network(torch.tensor([[[[3.0, 1.0]], [[0.0, 0.0]]]]))
    seen = batch(torch.zeros(1, 3, 1, 1), [0])
    assert LOSS(student, teacher, seen).item() == pytest.approx(0.0, abs=1e-6)


def test_it_passes_gradcheck():
    seen = batch(rand(3, 3, 2, 2), [2, 0, 3])
    teacher = smooth(seen.image, rand(6, 3, seed=3), rand(4, 6, seed=4).abs())

    def value(mix, classify):
        return LOSS(smooth(seen.image, mix, classify), teacher, seen)

    # Positive weights, to stay away from the kink of the ReLU
    weights = rand(5, 3).requires_grad_(), (rand(4, 5, seed=1).abs() + 0.1).requires_grad_()
    assert gradcheck(value, weights)


def test_a_stage_that_is_not_a_map_is_refused():
    with pytest.raises(UserError, match=r"'pooled' of small is not a map \[C, H, W\]"):
        AttentionDistillation(context(pooled=(8,)), "pooled")


def test_a_loss_that_uses_extra_views_is_refused():
    student = network(STAGE)
    student.views = {"turned": network(STAGE)}
    with pytest.raises(UserError, match="LwM cannot be combined"):
        LOSS(student, network(STAGE), batch(torch.zeros(1, 3, 1, 1), [0]))
