"""RLD: values by hand for a wrong teacher, DKD for a correct one, and its masks."""

from __future__ import annotations

import pytest
import torch
from helpers.logit_losses import context, gradients, labelled, probabilities, terms
from helpers.outputs import rand
from torch.autograd import gradcheck

from kd_bench.interfaces import Output, UserError
from kd_bench.methods.dkd import DecoupledDistillation
from kd_bench.methods.rld import RefinedLogits

SEEN = labelled(0, 2, 1, 4)


def make(confidence: float = 1.0, temperature: float = 1.0, classes: int = 5) -> RefinedLogits:
    return RefinedLogits(context(classes), confidence, temperature)


def test_values_by_hand_for_a_wrong_teacher():
    # Confidence: the teacher's .4 for class 1 against the student's 1/4 for the label: .4 ln 1.6 +
    # .6 ln .8 = 0.054115. Below the label's .3: (2/3, 1/3) against halves, 0.056633
    teacher = probabilities([0.3, 0.4, 0.2, 0.1])
    value = terms(make(classes=4), torch.zeros(1, 4).double(), teacher, labelled(0))
    assert value == {
        "confidence": [pytest.approx(0.054115, abs=1e-6)],
        "correlation": [pytest.approx(0.056633, abs=1e-6)],
    }


def test_it_is_dkd_where_the_teacher_is_correct():
    student, teacher = 3 * rand(4, 5), 3 * rand(4, 5, seed=1)
    teacher += 20 * torch.nn.functional.one_hot(SEEN.target, 5)
    dkd = terms(DecoupledDistillation(context(5), 4.0), student, teacher, SEEN)
    value = terms(make(4.0, 4.0), student, teacher, SEEN)
    assert value["confidence"] == pytest.approx(dkd["target"])
    assert value["correlation"] == pytest.approx(dkd["rest"])


def test_each_term_has_its_own_temperature_and_its_square():
    student, teacher = 3 * rand(4, 5), 3 * rand(4, 5, seed=1)
    cold = terms(make(), student, teacher, SEEN)
    warm = terms(make(2.0, 3.0), 2 * student, 2 * teacher, SEEN)
    assert warm["confidence"] == pytest.approx([4 * term for term in cold["confidence"]])
    warm = terms(make(2.0, 3.0), 3 * student, 3 * teacher, SEEN)
    assert warm["correlation"] == pytest.approx([9 * term for term in cold["correlation"]])


def test_only_classes_that_the_teacher_ranks_below_the_label_have_a_gradient():
    teacher = torch.tensor([[2.0, 5.0, 2.0, 1.0, 0.0]])  # class 2 ties with the label
    pull = gradients(make(), rand(1, 5).float(), teacher, labelled(0))["correlation"]
    assert (pull != 0).tolist() == [[False, False, False, True, True]]


def test_confidence_raises_the_label_if_the_teacher_is_certain_of_another_class():
    teacher = torch.tensor([[0.0, 9.0, 0.0]])
    pull = gradients(make(classes=3), torch.zeros(1, 3), teacher, labelled(0))["confidence"]
    assert pull[0, 0] < 0
    assert pull[0, 1] == pull[0, 2] > 0  # the predicted class is one of the rest


@pytest.mark.parametrize("others", [[3.0, 2.0, 1.0], [3.0, 2.0, -1.0]])
def test_with_fewer_than_two_classes_below_the_label_there_is_no_correlation(others):
    teacher = torch.tensor([[0.0, *others]])
    student = torch.tensor([[50.0, -50.0, 0.0, 1e4]], requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        value = make(classes=4).per_image(Output(student), Output(teacher), labelled(0))
        value["correlation"].sum().backward()
    assert value["correlation"].tolist() == [0]
    assert not student.grad.any()


def test_its_gradient_matches_finite_differences():
    teacher = Output(3 * rand(4, 5, seed=1))

    def value(student):
        return tuple(make(2.0, 3.0).per_image(Output(student), teacher, SEEN).values())

    assert gradcheck(value, (rand(4, 5).requires_grad_(),))


@pytest.mark.parametrize(
    ("temperatures", "name"), [((0, 4.0), "confidence_temperature"), ((1.0, 0), "temperature")]
)
def test_a_temperature_of_zero_is_refused(temperatures, name):
    with pytest.raises(UserError, match=f"^{name} must be a number above 0, got 0"):
        make(*temperatures)
