"""Boundary supporting samples: selection, rivals, attack and loss."""

import math

import pytest
import torch
from helpers.small_nets import batch, context, linear, rand, smooth

from kd_bench.interfaces import Networks, Output, UserError
from kd_bench.methods.bss import BoundarySamples, attack, base_samples, sample_rival
from kd_bench.methods.common.functional import soft_kl

GIVEN = {
    "temperature": 3.0,
    "share": 1.0,
    "steps": 10,
    "step_size": 0.3,
    "clean_end": 4 / 3,
    "boundary_end": 0.75,
}
WIDE = (torch.tensor(-100.0), torch.tensor(100.0))


def loss(classes=2, epochs=4, **changed):
    return BoundarySamples(context(classes=classes, epochs=epochs), **(GIVEN | changed))


def terms_of(made, student, teacher, seen):
    """The loss of two networks on a batch, as in a training step."""
    networks = Networks(student, teacher)
    return made(student(seen.image), teacher(seen.image), seen, networks)


def sloped(image):
    return linear(image, SLOPE)


def indifferent(image):
    return Output(torch.zeros(len(image), 2))


# Selection of images


def probabilities(*rows):
    return torch.tensor(rows).log()


def test_images_with_the_largest_difference_besides_the_label_come_first():
    # Squares at the classes other than 0: 0.1^2 + 0.1^2 = 0.02; 0; 0.2^2 + 0.2^2 = 0.08. At the
    # label, which is ignored, the first differs by 0.2 and the third by 0.
    teacher = probabilities([0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.6, 0.3, 0.1])
    student = probabilities([0.6, 0.2, 0.2], [0.8, 0.1, 0.1], [0.6, 0.1, 0.3])
    chosen, right = base_samples(student, teacher, torch.tensor([0, 0, 0]), 2)
    assert chosen.tolist() == [2, 0]
    assert right.tolist() == [True, True]


def test_images_misclassified_by_the_teacher_come_last_and_are_marked():
    teacher = probabilities([0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8])
    student = probabilities([0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.8, 0.1, 0.1])
    chosen, right = base_samples(student, teacher, torch.tensor([0, 0, 0]), 3)
    assert chosen.tolist() == [1, 0, 2]
    assert right.tolist() == [True, False, False]


def test_images_misclassified_only_by_the_student_come_last_and_are_marked():
    # The first image differs most, 0.7^2 + 0.0^2, but the student predicts class 1.
    teacher = probabilities([0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.6, 0.3, 0.1])
    student = probabilities([0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.6, 0.1, 0.3])
    chosen, right = base_samples(student, teacher, torch.tensor([0, 0, 0]), 3)
    assert chosen.tolist() == [2, 1, 0]
    assert right.tolist() == [True, True, False]


# Rival class


def test_the_rival_is_sampled_by_the_teachers_probabilities():
    # (0.4, 0.3, 0.2, 0.1) without the first: 3/6, 2/6, 1/6. Of 60,000 draws each share is within
    # four standard errors, 4 sqrt(p (1 - p) / 60000) < 0.0082
    torch.manual_seed(0)
    teacher = probabilities([0.4, 0.3, 0.2, 0.1]).repeat(60000, 1)
    rival = sample_rival(teacher, torch.zeros(60000, dtype=torch.long))
    shares = rival.bincount(minlength=4) / 60000
    torch.testing.assert_close(shares, torch.tensor([0, 3, 2, 1]) / 6, atol=0.0082, rtol=0)


def test_an_impossible_class_is_the_rival_if_it_is_the_only_one():
    teacher = torch.tensor([[1e4, -1e4]]).repeat(50, 1)
    assert (sample_rival(teacher, torch.zeros(50, dtype=torch.long)) == 1).all()


# Attack


# Class 0 scores 4 x_1, class 1 nothing: the boundary is at x_1 = 0
SLOPE = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def attacked(*places, limits=WIDE, steps=10, step_size=0.3):
    image = torch.zeros(len(places), 3, 1, 1)
    image[:, 0, 0, 0] = torch.tensor(places)
    target, rival = torch.zeros(len(places), dtype=torch.long), torch.ones(len(places)).long()
    moved = attack(lambda x: linear(x, SLOPE), image, target, rival, limits, steps, step_size)
    return moved[:, 0, 0, 0].tolist()


def test_a_step_is_proportional_to_the_margin_and_stops_beyond_the_boundary():
    # From 1: the margin is 4, the step 0.3 * 4.0001 = 1.20003 against the unit gradient. At
    # -0.20003 the other class is ahead, and the image stops.
    assert attacked(1.0) == pytest.approx([-0.20003])


def test_images_stop_independently_of_each_other():
    # With 0.2: 1 -> 0.19998 -> 0.19998 - 0.2 * 0.80002 = 0.039976; -1 is already misclassified
    assert attacked(1.0, -1.0, steps=2, step_size=0.2) == pytest.approx([0.039976, -1.0])


def test_pixels_stay_within_their_limits():
    assert attacked(1.0, limits=(torch.tensor(-0.1), torch.tensor(1.0))) == pytest.approx([-0.1])


def test_the_attack_matches_a_loop_over_images_and_steps():
    image, target = rand(5, 3, 2, 2).clamp(-1.5, 1.5), torch.tensor([0, 1, 2, 3, 0])
    rival = torch.tensor([1, 2, 3, 0, 2])
    mix, classify = rand(6, 3, seed=1), rand(4, 6, seed=2)

    def net(x):
        return smooth(x, mix, classify)

    expected = image.clone()
    for i in range(5):
        for _ in range(10):
            x = expected[i : i + 1].clone().requires_grad_()
            scores = net(x).logits[0]
            if scores.argmax() != target[i]:
                break
            lead = scores[target[i]] - scores[rival[i]]
            (-lead).backward()
            length = 0.3 * (lead.item() + 1e-4)
            expected[i] = (x + length * x.grad / x.grad.norm()).clamp(-1.5, 1.5)[0].detach()
    limits = torch.tensor(-1.5), torch.tensor(1.5)
    moved = attack(net, image, target, rival, limits, steps=10, step_size=0.3)
    torch.testing.assert_close(moved, expected)
    assert not torch.equal(moved, image)


# The loss


def test_the_student_learns_the_teachers_predictions_at_the_boundary():
    # Two classes, so the rival is certain. The image at 1 is moved to -0.20003, but pixels are
    # clipped to the batch's range, at -0.1: there the teacher's logits are (-0.4, 0). The second
    # image is misclassified and ignored. The student's logits are (0, 0): the divergence at
    # T = 3 is sum p ln(2 p) with p = softmax(-0.4 / 3, 0) = (0.466716, 0.533284): 0.002218.
    image = torch.zeros(2, 3, 1, 1)
    image[:, 0, 0, 0] = torch.tensor([1.0, -0.1])
    seen = batch(image, [0, 0])
    value = terms_of(loss(boundary_end=1e9), indifferent, sloped, seen)["boundary"]
    assert value.item() == pytest.approx(0.002218, abs=1e-6)


def test_an_image_misclassified_only_by_the_student_does_not_count():
    # The student's logits are (2 x - 3, 0): wrong at 1, correct at 2. The teacher is correct at
    # both, and wrong at -0.5, so only the image at 2 counts. It moves by 0.3 * 8.0001 to -0.40003,
    # where the teacher's logits are (-1.60012, 0) and the student's (-3.80006, 0): at T = 3 the
    # first class has p = 0.369730 and q = 0.219825, and the divergence is 0.057758.
    image = torch.zeros(3, 3, 1, 1)
    image[:, 0, 0, 0] = torch.tensor([1.0, 2.0, -0.5])

    def student(x):
        first = 2 * x[:, 0, 0, 0] - 3
        return Output(torch.stack([first, torch.zeros_like(first)], dim=1))

    value = terms_of(loss(boundary_end=1e9), student, sloped, batch(image, [0, 0, 0]))["boundary"]
    assert value.item() == pytest.approx(0.057758, abs=1e-6)


def test_a_share_of_the_batch_is_attacked_with_one_teacher_pass_per_step_and_one_more():
    sizes = []

    def net(x):
        sizes.append(len(x))
        return linear(x, SLOPE)

    image = torch.ones(8, 3, 1, 1)
    seen = batch(image, [0] * 8)
    terms_of(loss(share=0.25), sloped, net, seen)
    assert sizes == [8] + 11 * [2]


def test_the_clean_images_are_compared_without_the_squared_temperature():
    seen = batch(rand(3, 3, 1, 1), [0, 1, 0])
    student, teacher = (lambda x, i=i: linear(x, rand(2, 3, seed=i)) for i in (1, 2))
    value = terms_of(loss(clean_end=1e9), student, teacher, seen)["clean"]
    expected = soft_kl(student(seen.image).logits, teacher(seen.image).logits, 3.0).mean()
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("epoch", "clean", "boundary"),
    # Of four epochs: 1 - e / (4 * 4/3) and 1 - e / 3, not below zero
    [(1, 13 / 16, 2 / 3), (2, 10 / 16, 1 / 3), (3, 7 / 16, 0.0), (4, 4 / 16, 0.0)],
)
def test_both_terms_decrease_over_the_epochs(epoch, clean, boundary):
    seen = batch(torch.ones(2, 3, 1, 1), [0, 0], epoch)
    whole = terms_of(loss(clean_end=1e9, boundary_end=1e9), indifferent, sloped, seen)
    assert all(term > 0 for term in whole.values())
    fallen = terms_of(loss(), indifferent, sloped, seen)
    ratios = {name: (fallen[name] / whole[name]).item() for name in whole}
    assert ratios == pytest.approx({"clean": clean, "boundary": boundary}, abs=1e-6)


def test_the_loss_is_zero_if_the_teacher_is_never_correct():
    seen = batch(torch.ones(2, 3, 1, 1), [1, 1])
    weight = torch.zeros(2, 3, requires_grad=True)
    value = terms_of(loss(), lambda x: linear(x, weight), sloped, seen)["boundary"]
    value.backward()
    assert value == 0
    assert not weight.grad.any()


def test_the_students_gradient_is_that_of_the_divergence_at_the_attacked_images():
    # The attack is on the teacher: the student's gradient does not depend on it.
    weight = rand(2, 3).float().requires_grad_()
    seen = batch(torch.ones(1, 3, 1, 1), [0])
    value = terms_of(loss(boundary_end=1e9), lambda x: linear(x, weight), sloped, seen)
    (gradient,) = torch.autograd.grad(value["boundary"], weight)
    # One image: its own pixel range is the limit, so it does not move.
    here = torch.ones(1, 3)
    expected = soft_kl(here @ weight.T, here @ SLOPE.T, 3.0).mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, weight)[0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"share": 0.0}, "share must be above 0 and at most 1, got 0"),
        ({"share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        ({"step_size": -0.3}, "step_size must be a number above 0"),
        ({"clean_end": 0}, "clean_end must be a number above 0"),
        ({"boundary_end": math.nan}, "boundary_end must be a number above 0"),
        ({"classes": 1}, "BSS needs two classes or more, got 1"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(UserError, match=message):
        loss(**changed)
