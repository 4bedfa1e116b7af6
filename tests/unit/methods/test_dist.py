"""DIST: a value by hand, affine maps of the student's probabilities, and improbable classes."""

from __future__ import annotations

import pytest
import torch
from helpers.outputs import K, batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import UserError
from kd_bench.methods.dist import RelationMatching

CONTEXT = context_of({}, {})


def make(context=CONTEXT, temperature: float = 1.0) -> RelationMatching:
    return RelationMatching(context, temperature)


def terms(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> list[float]:
    batch = batch_of(CONTEXT, len(student))
    value = make(temperature=temperature)(output_of(student), output_of(teacher), batch)
    return [value["inter"].item(), value["intra"].item()]


def test_values_by_hand():
    # p_s = [.5 .3 .2], [.2 .2 .6]; p_t = [.6 .3 .1], [.5 .3 .2]. Deviations from 1/3, times 30:
    # student [5 -1 -4], [-4 -4 8], teacher [8 -1 -7], [5 -1 -4].
    # inter: (40+1+28)/sqrt(42·114) = 0.997176, (-20+4-32)/sqrt(96·42) = -0.755929;
    # 1 - (0.997176 - 0.755929)/2 = 0.879376.
    # intra, two images: student falls, falls, rises; teacher falls, is constant, rises: 1, 0, 1
    student = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]).log()
    teacher = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.3, 0.2]]).log()
    assert terms(student, teacher) == pytest.approx([0.879376, 1 / 3], abs=1e-5)


def test_the_factor_is_the_squared_temperature_of_softened_probabilities():
    student, teacher = rand(5, K), rand(5, K, seed=1)
    warm = terms(3 * student, 3 * teacher, temperature=3.0)
    assert warm == pytest.approx([9 * term for term in terms(student, teacher)])


def test_affine_maps_of_the_students_probabilities_change_nothing():
    # a p + (1 - a) / K is again a distribution for 0 < a < 1; each image may have its own a for
    # "inter", all share it for "intra".
    student, teacher = rand(6, K).softmax(1), rand(6, K, seed=1)
    before = terms(student.log(), teacher)
    shared = (0.3 * student + 0.7 / K).log()
    assert terms(shared, teacher) == pytest.approx(before, rel=1e-12)
    scale = torch.linspace(0.1, 0.9, 6)[:, None]
    own = (scale * student + (1 - scale) / K).log()
    assert terms(own, teacher)[0] == pytest.approx(before[0], rel=1e-12)
    assert terms(own, teacher)[1] != pytest.approx(before[1], rel=1e-3)


def test_the_loss_is_zero_for_the_teacher_and_twice_the_factor_for_its_opposite():
    teacher = rand(6, K).softmax(1)
    assert terms(teacher.log(), teacher.log()) == pytest.approx([0, 0], abs=1e-12)
    opposite = (0.5 - teacher / 2).log()  # an affine map with a negative scale
    shifted = torch.softmax(opposite, 1).log()
    assert terms(shifted, teacher.log())[0] == pytest.approx(2)


def test_a_class_that_is_improbable_in_all_images_counts_like_any_other():
    # The correlation also counts for probabilities around e^-30.
    unlikely = torch.tensor([0.0, 0.0, 0.0, -30.0])
    student, teacher = rand(5, K) + unlikely, rand(5, K, seed=1) + unlikely
    columns = zip(student.softmax(1).T, teacher.softmax(1).T, strict=True)
    expected = [1 - torch.corrcoef(torch.stack(column))[0, 1].item() for column in columns]
    value = terms(student.float(), teacher.float())[1]
    assert value == pytest.approx(sum(expected) / K, rel=1e-4)


def test_a_batch_of_one_has_no_relation_between_images():
    student = rand(1, K).requires_grad_()
    value = make()(output_of(student), output_of(rand(1, K, seed=1)), batch_of(CONTEXT, 1))
    (gradient,) = torch.autograd.grad(value["intra"], student)
    assert value["intra"].item() == 1
    assert not gradient.any()


def test_two_classes_are_perfectly_correlated_or_not_at_all():
    # p and 1 - p: the deviations of two classes are opposite, so only the order counts.
    student = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    teacher = torch.tensor([[4.0, 0.0], [0.0, 9.0]])
    assert terms(student, teacher)[0] == pytest.approx(1)  # 1 - (1 - 1) / 2


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(temperature=0)
