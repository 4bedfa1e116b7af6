"""Gradient-based attention transfer: values by hand, a limit, second derivatives."""

import pytest
import torch
from helpers.small_nets import batch, context, linear, rand, smooth
from torch.autograd import gradcheck

from kd_bench.methods.at_gradient import GradientAttention, loss_gradient

LOSS = GradientAttention(context())
STUDENT = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
BLIND = torch.zeros(2, 3)


def of_linear(student, teacher, images):
    seen = batch(torch.zeros(images, 3, 1, 1), [0] * images)
    return LOSS(linear(seen.image, student), linear(seen.image, teacher), seen).item()


def test_it_is_half_the_squared_distance_between_the_gradients_of_the_losses():
    # At x = 0 both classes are at 1/2, so J_s = (1/2 - 1) (1, 2, 2) and J_t = 0: |J_s|^2 = 9/4
    assert of_linear(STUDENT, BLIND, images=1) == pytest.approx(9 / 8)


def test_duplicated_images_change_nothing():
    # Gradients of the mean loss would scale with 1 / B.
    assert of_linear(STUDENT, BLIND, images=5) == pytest.approx(9 / 8)


def test_the_loss_is_zero_for_a_student_equal_to_its_teacher():
    assert of_linear(STUDENT, STUDENT, images=2) == 0.0


def test_a_certain_teacher_leaves_a_penalty_on_the_students_gradient():
    # Its cross entropy is flat, p - y = 0, which leaves |J_s|^2 / 2 (Drucker and Le Cun, 1992)
    seen = batch(rand(3, 3, 2, 2), [2, 0, 3])
    student = smooth(seen.image, rand(5, 3, seed=1), rand(4, 5, seed=2))
    sure = torch.nn.functional.one_hot(seen.target, 4) * 1e4
    teacher = smooth(seen.image, rand(6, 3, seed=3), rand(4, 6, seed=4))
    teacher.logits = teacher.logits + sure
    own = loss_gradient(student.logits, seen, create_graph=False)
    torch.testing.assert_close(LOSS(student, teacher, seen), own.pow(2).sum() / 2 / 3)


def test_gradients_are_per_image():
    image, mix, classify = rand(3, 3, 2, 2), rand(5, 3, seed=1), rand(4, 5, seed=2)
    seen = batch(image, [2, 0, 3])
    together = loss_gradient(smooth(seen.image, mix, classify).logits, seen, create_graph=False)
    for i, label in enumerate(seen.target):
        one = image[i : i + 1].detach().requires_grad_()
        (-smooth(one, mix, classify).logits.log_softmax(1)[0, label]).backward()
        torch.testing.assert_close(together[i], one.grad.flatten())


def test_it_passes_gradcheck():
    seen = batch(rand(3, 3, 2, 2), [2, 0, 3])
    teacher = smooth(seen.image, rand(6, 3, seed=3), rand(4, 6, seed=4))

    def value(mix, classify):
        return LOSS(smooth(seen.image, mix, classify), teacher, seen)

    assert gradcheck(value, (rand(5, 3).requires_grad_(), rand(4, 5, seed=1).requires_grad_()))
