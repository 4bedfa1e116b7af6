"""DKD: values by hand, the two parts of the divergence, and a certain teacher."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_losses import (
    context,
    divergence,
    gradients,
    labelled,
    normalised,
    probabilities,
    softmax,
    terms,
)
from helpers.outputs import rand

from kd_bench.interfaces import Output, UserError
from kd_bench.methods.common.functional import soft_kl
from kd_bench.methods.dkd import DecoupledDistillation

SEEN = labelled(0, 2, 1, 4)


def make(temperature: float = 1.0, classes: int = 5) -> DecoupledDistillation:
    return DecoupledDistillation(context(classes), temperature)


def test_values_by_hand():
    # Label or not: (.5, .5) against (.2, .8) is .5 ln 2.5 + .5 ln .625 = 0.223144.
    # Without the label: (.6, .4) against (.5, .5) is .6 ln 1.2 + .4 ln .8 = 0.020136
    student, teacher = probabilities([0.2, 0.4, 0.4]), probabilities([0.5, 0.3, 0.2])
    value = terms(make(classes=3), student, teacher, labelled(0))
    assert value == {
        "target": [pytest.approx(0.223144, abs=1e-6)],
        "rest": [pytest.approx(0.020136, abs=1e-6)],
    }


def test_it_matches_a_loop_at_a_temperature():
    student, teacher = 5 * rand(4, 5), 5 * rand(4, 5, seed=1)
    expected: dict[str, list[float]] = {"target": [], "rest": []}
    for s, t, label in zip(student.tolist(), teacher.tolist(), SEEN.target.tolist(), strict=True):
        q, p = softmax(s, 4.0), softmax(t, 4.0)
        binary = [p[label], 1 - p[label]], [q[label], 1 - q[label]]
        others = [normalised(x[:label] + x[label + 1 :]) for x in (p, q)]
        expected["target"].append(16 * divergence(*binary))
        expected["rest"].append(16 * divergence(*others))
    value = terms(make(4.0), student, teacher, SEEN)
    assert value["target"] == pytest.approx(expected["target"])
    assert value["rest"] == pytest.approx(expected["rest"])


def test_with_the_rest_weighted_by_the_teachers_doubt_it_is_the_divergence():
    # alpha = 1 and beta = 1 - p_t(y), at temperature 1
    student, teacher = 3 * rand(4, 5), 3 * rand(4, 5, seed=1)
    doubt = 1 - teacher.softmax(1)[range(4), SEEN.target]
    value = make().per_image(Output(student), Output(teacher), SEEN)
    whole = soft_kl(student, teacher, 1.0)
    torch.testing.assert_close(value["target"] + doubt * value["rest"], whole)


def test_the_rest_does_not_depend_on_the_label():
    student, teacher = rand(4, 5), rand(4, 5, seed=1)
    surer = teacher + 9 * torch.nn.functional.one_hot(SEEN.target, 5)
    before, after = (terms(make(), student, t, SEEN) for t in (teacher, surer))
    assert after["rest"] == pytest.approx(before["rest"])
    assert after["target"] != pytest.approx(before["target"], rel=0.1)
    assert not gradients(make(), student, teacher, SEEN)["rest"][range(4), SEEN.target].any()


def test_the_rest_of_a_certain_teacher_is_learned():
    # Its other classes have probabilities of e^-200 and less, zero in single precision.
    student = torch.tensor([[0.0, 0.0, 0.0]])
    teacher = torch.tensor([[200.0, math.log(3), 0.0]])
    value = terms(make(classes=3), student, teacher, labelled(0))
    assert value["rest"] == [pytest.approx(0.130812, abs=1e-6)]  # (3/4, 1/4) against (1/2, 1/2)
    assert value["target"] == [pytest.approx(math.log(3), abs=1e-6)]


def test_with_two_classes_the_target_is_the_divergence_and_the_rest_is_zero():
    student, teacher, seen = rand(2, 2), rand(2, 2, seed=1), labelled(0, 1)
    value = terms(make(classes=2), student, teacher, seen)
    assert value["target"] == pytest.approx(soft_kl(student, teacher, 1.0).tolist())
    assert value["rest"] == [0, 0]
    assert not gradients(make(classes=2), student, teacher, seen)["rest"].any()


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient():
    logits = rand(4, 5)
    value, pull = terms(make(4.0), logits, logits, SEEN), gradients(make(4.0), logits, logits, SEEN)
    for term in ("target", "rest"):
        assert value[term] == [0, 0, 0, 0]
        assert pull[term].abs().max() < 1e-15


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature must be a number above 0, got 0"):
        make(0)
