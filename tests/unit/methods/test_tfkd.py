"""Teacher-free distillation: self-training, a virtual teacher, and its published variant."""

import math

import pytest
import torch
from helpers.jobs import job
from helpers.small_nets import batch, context, rand
from torch.autograd import gradcheck

from kd_bench.interfaces import Output, UserError
from kd_bench.jobs import validate
from kd_bench.methods.tfkd import PublishedVirtualTeacher, SelfTraining, VirtualTeacher

SEEN = batch(torch.zeros(3, 3, 1, 1), [0, 2, 1])


def gradient_of(loss, student, teacher=None):
    student = student.clone().requires_grad_()
    value = loss(Output(student), None if teacher is None else Output(teacher), SEEN)
    (gradient,) = torch.autograd.grad(value, student)
    return gradient


# Self-training


def test_self_training_is_the_divergence_times_the_squared_temperature():
    # softmax([6 ln 3, 0] / 6) = (3/4, 1/4) against (1/2, 1/2) is 0.130812; times 36
    loss = SelfTraining(context(), temperature=6.0)
    teacher = Output(torch.tensor([[6 * math.log(3), 0.0]]))
    seen = batch(torch.zeros(1, 3, 1, 1), [0])
    assert loss(Output(torch.zeros(1, 2)), teacher, seen).item() == pytest.approx(
        4.709232, rel=1e-5
    )


def test_self_training_sums_over_classes_and_averages_over_images():
    # The authors' code divides by the number of classes: with 100, a gradient 100 times smaller
    loss = SelfTraining(context(), temperature=6.0)
    student, teacher = rand(3, 5), rand(3, 5, seed=1)
    value = loss(Output(student), Output(teacher), SEEN)
    nobody = torch.full((3, 95), -1e4, dtype=torch.double)
    padded = (Output(torch.cat([x, nobody], 1)) for x in (student, teacher))
    torch.testing.assert_close(loss(*padded, SEEN), value)
    twice = (Output(x.repeat(2, 1)) for x in (student, teacher))
    torch.testing.assert_close(loss(*twice, SEEN), value)


def test_the_gradient_scale_is_independent_of_temperature():
    # Without T^2 the ratio would be 400. Small logits are near the limit even at T = 1.
    student, teacher = 0.1 * rand(3, 10), 0.1 * rand(3, 10, seed=1)
    cold, hot = (
        gradient_of(SelfTraining(context(), t), student, teacher).norm() for t in (1.0, 20.0)
    )
    assert (cold / hot).item() == pytest.approx(1.0, abs=0.1)


def test_a_student_equal_to_its_teacher_has_zero_gradient():
    logits = rand(3, 5)
    assert gradient_of(SelfTraining(context(), 6.0), logits, logits).abs().max() < 1e-15
    assert gradient_of(SelfTraining(context(), 6.0), logits, rand(3, 5, seed=1)).any()


def test_a_teacher_of_another_model_is_refused_before_anything_trains(tmp_path):
    the_job = job(tmp_path, "method=tfkd_self")
    message = r"the student is resnet8_half and the teacher resnet20; add teacher=resnet8_half$"
    with pytest.raises(UserError, match=message):
        validate.validate_job(the_job)


@pytest.mark.slow
def test_the_teacher_is_the_baseline_of_the_students_own_model(tmp_path):
    model = "model@teacher.model=resnet8_half"
    same = "teacher.model.net.widths=[8,8,16,16]"
    the_job = job(tmp_path, "method=tfkd_self", model, same)
    validate.validate_job(the_job)
    assert the_job.teacher.folder.startswith("synthetic/none-resnet8_half/baseline/")


# Virtual teacher

K = 5


def virtual(loss=VirtualTeacher, temperature=20.0, correct=0.99):
    return loss(context(classes=K), temperature=temperature, correct=correct)


def by_hand(logits, target_of, temperature):
    """The divergence from a target, with loops over images and classes."""
    total = 0.0
    for i, label in enumerate(SEEN.target.tolist()):
        target = target_of(label)
        weights = [math.exp(z / temperature) for z in logits[i].tolist()]
        for p, w in zip(target, weights, strict=True):
            total += p * math.log(p / (w / sum(weights)))
    return total / len(logits)


def normalised(weights):
    return [w / sum(weights) for w in weights]


def designed(label):
    return [0.99 if k == label else 0.01 / 4 for k in range(K)]


def test_the_virtual_teacher_is_softened_like_logits():
    # softmax(log(p) / T) is p^(1/T), normalised
    logits = rand(3, K)
    expected = by_hand(logits, lambda y: normalised([p ** (1 / 20) for p in designed(y)]), 20)
    value = virtual()(Output(logits), None, SEEN)
    assert value.item() == pytest.approx(400 * expected)


def test_the_published_variant_uses_a_softmax_of_probabilities():
    logits = rand(3, K)
    expected = by_hand(logits, lambda y: normalised([math.exp(p / 20) for p in designed(y)]), 1)
    value = virtual(PublishedVirtualTeacher)(Output(logits), None, SEEN)
    assert value.item() == pytest.approx(expected)


def test_at_temperature_one_the_virtual_teacher_is_label_smoothing():
    # Section 4 of the paper: cross entropy with smoothed labels has the same gradient. PyTorch
    # smooths by giving every class s / K: 0.99 at the label is 1 - s + s / 5, so s = 0.0125
    logits = rand(3, K).requires_grad_()
    smooth = torch.nn.functional.cross_entropy(logits, SEEN.target, label_smoothing=0.0125)
    (expected,) = torch.autograd.grad(smooth, logits)
    torch.testing.assert_close(gradient_of(virtual(temperature=1.0), logits.detach()), expected)


def test_a_student_equal_to_its_virtual_teacher_has_zero_gradient():
    logits = torch.tensor([designed(label) for label in SEEN.target.tolist()]).double().log()
    assert gradient_of(virtual(), logits).abs().max() < 1e-7  # float32 rounding of the logits


def test_the_published_target_is_almost_uniform():
    # exp(0.99 / 20) / exp(0.0025 / 20) = 1.05: the label is 5 % above the others, so the gradient
    # is almost zero for equal logits, and makes a confident student less confident.
    loss = virtual(PublishedVirtualTeacher)
    assert gradient_of(loss, torch.zeros(3, K)).abs().max() < 0.01
    right = 4 * torch.nn.functional.one_hot(SEEN.target, K).double()
    own = gradient_of(loss, right).gather(1, SEEN.target[:, None])
    assert (own > 0.2).all()  # descent lowers the label's logit


@pytest.mark.parametrize("loss", [VirtualTeacher, PublishedVirtualTeacher])
def test_the_gradients_of_virtual_teachers_match_finite_differences(loss):
    def value(logits):
        return virtual(loss)(Output(logits), None, SEEN)

    assert gradcheck(value, (rand(3, K).requires_grad_(),))


@pytest.mark.parametrize("correct", [1.0, 0.2, 0.0, -1.0])
def test_a_virtual_teacher_at_chance_level_is_refused(correct):
    with pytest.raises(UserError, match="correct must be above 1/5"):
        virtual(correct=correct)


def test_a_single_class_is_refused():
    with pytest.raises(UserError, match="two classes or more, got 1"):
        VirtualTeacher(context(classes=1), temperature=20.0, correct=0.99)


@pytest.mark.parametrize(
    "make", [lambda t: virtual(temperature=t), lambda t: SelfTraining(context(), t)]
)
def test_a_temperature_of_zero_is_refused(make):
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(0)


def test_a_job_with_a_virtual_teacher_trains_no_teacher(tmp_path):
    the_job = job(tmp_path, "method=tfkd_reg")
    assert the_job.teacher is None
    assert the_job.folder.startswith("synthetic/none-resnet8_half/tfkd_reg/")
