"""GDKD: values by hand, the three parts of the divergence, DKD as a special case, and ties."""

from __future__ import annotations

import pytest
import torch
from helpers.logit_losses import context, gradients, labelled, probabilities, terms
from helpers.outputs import rand

from kd_bench.interfaces import Output, UserError
from kd_bench.methods.common.functional import soft_kl
from kd_bench.methods.dkd import DecoupledDistillation
from kd_bench.methods.gdkd import GeneralizedDecoupling

SEEN = labelled(0, 2, 1, 4)


def make(k: int, temperature: float = 1.0, classes: int = 5) -> GeneralizedDecoupling:
    return GeneralizedDecoupling(context(classes), temperature, k)


def test_values_by_hand():
    # Split (.7, .3) against (.5, .5): .7 ln 1.4 + .3 ln .6 = 0.082283.
    # Top (4/7, 3/7) against halves: 4/7 ln(8/7) + 3/7 ln(6/7) = 0.010239.
    # Rest (2/3, 1/3) against halves: 2/3 ln(4/3) + 1/3 ln(2/3) = 0.056633
    teacher = probabilities([0.1, 0.4, 0.3, 0.2])
    value = terms(make(2, classes=4), torch.zeros(1, 4).double(), teacher, labelled(0))
    assert {name: term[0] for name, term in value.items()} == pytest.approx(
        {"split": 0.082283, "top": 0.010239, "rest": 0.056633}, abs=1e-6
    )


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_weighted_with_the_teachers_probabilities_it_is_the_divergence(k):
    student, teacher = 2 * rand(4, 5), 2 * rand(4, 5, seed=1)
    head = teacher.softmax(1).sort(descending=True).values[:, :k].sum(1)
    value = make(k).per_image(Output(student), Output(teacher), SEEN)
    whole = value["split"] + head * value["top"] + (1 - head) * value["rest"]
    torch.testing.assert_close(whole, soft_kl(student, teacher, 1.0))


def test_with_one_class_it_is_dkd_for_the_teachers_predictions():
    student, teacher = 5 * rand(4, 5), 5 * rand(4, 5, seed=1)
    predicted = labelled(*teacher.argmax(1).tolist())
    dkd = terms(DecoupledDistillation(context(5), 4.0), student, teacher, predicted)
    value = terms(make(1, 4.0), student, teacher, SEEN)
    assert value["split"] == pytest.approx(dkd["target"])
    assert value["rest"] == pytest.approx(dkd["rest"])
    assert value["top"] == [0, 0, 0, 0]


def test_with_one_class_it_is_dkd_only_where_the_teacher_is_correct():
    student, teacher = 5 * rand(4, 5), 5 * rand(4, 5, seed=1)
    teacher[:2] += 40 * torch.nn.functional.one_hot(SEEN.target, 5)[:2]  # two of four are right
    teacher[2:] -= 40 * torch.nn.functional.one_hot(SEEN.target, 5)[2:]
    dkd = terms(DecoupledDistillation(context(5), 4.0), student, teacher, SEEN)
    value = terms(make(1, 4.0), student, teacher, SEEN)
    for ours, theirs in (("split", "target"), ("rest", "rest")):
        same = [a == pytest.approx(b) for a, b in zip(value[ours], dkd[theirs], strict=True)]
        assert same == [True, True, False, False]


def test_a_rest_of_a_single_class_is_zero():
    value = terms(make(4), rand(4, 5), rand(4, 5, seed=1), SEEN)
    assert value["rest"] == [0, 0, 0, 0]
    assert all(term > 0 for term in value["top"])


def test_the_order_of_classes_that_tie_has_no_effect():
    teacher = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    student, order = rand(1, 5).float(), [1, 3, 0, 4, 2]
    one = terms(make(2), student, teacher, labelled(0))
    other = terms(make(2), student[:, order], teacher[:, order], labelled(2))
    for name in one:
        assert other[name] == pytest.approx(one[name])


def test_with_a_uniform_teacher_all_classes_are_in_one_group():
    student, teacher = rand(4, 5), torch.zeros(4, 5).double()
    value = terms(make(2), student, teacher, SEEN)
    assert value["top"] == pytest.approx(soft_kl(student, teacher, 1.0).tolist())
    assert value["split"] == value["rest"] == [0, 0, 0, 0]


def test_a_student_equal_to_its_teacher_has_no_gradient():
    logits = rand(4, 5)
    pulls = gradients(make(2, 4.0), logits, logits, SEEN)
    assert all(pull.abs().max() < 1e-15 for pull in pulls.values())


@pytest.mark.parametrize("k", [0, 5])
def test_a_group_of_no_or_all_classes_is_refused(k):
    with pytest.raises(UserError, match=f"k must be from 1 to 4, got {k}"):
        make(k)
