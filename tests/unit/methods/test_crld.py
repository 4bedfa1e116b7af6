"""CRLD: a value by hand, a loop over images and views, and masks at their thresholds."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_losses import context, divergence, labelled, probabilities, softmax
from helpers.outputs import rand
from helpers.two_views import numbers, random_pair, two_views

from kd_bench.interfaces import UserError
from kd_bench.methods.common.strong_view import STRONG
from kd_bench.methods.crld import CrossViewConsistency

B, K = 6, 4
LABELS = [0, 1, 2, 3, 0, 1]


def make(temperature=4.0, weak=0.9, strong=0.2, classes=K):
    return CrossViewConsistency(context(classes), temperature, weak, strong)


def test_a_value_by_hand():
    # At T = 1, with p_s = [1/2 1/2] in both views, teacher [3/4 1/4] (weak) and [1/4 3/4] (strong):
    # every divergence is 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812. For the second image, 1/2 is below
    # 0.7 in both views: its divergences are 0, and it counts in the mean.
    student = two_views(*torch.zeros(2, 2, 2).double())
    teacher = two_views(probabilities([0.75, 0.25], [0.5, 0.5]),
                        probabilities([0.25, 0.75], [0.5, 0.5]))  # fmt: skip
    found = numbers(make(1.0, 0.7, 0.7, classes=2), student, teacher, [0, 1])
    assert found == pytest.approx(
        {"label": math.log(2), "within": 0.130812, "across": 0.130812}, abs=1e-6
    )


def test_terms_are_those_of_a_loop_over_images():
    student, teacher = random_pair(B, K)
    loss = make(temperature=3.0, weak=0.6, strong=0.5)
    found = numbers(loss, student, teacher, LABELS)
    within = across = 0.0
    kept = []
    for i in range(B):
        views = [view for out in (student, teacher) for view in (out, out.views[STRONG])]
        rows = [view.logits[i].tolist() for view in views]
        s_w, s_s, t_w, t_s = (softmax(row, 3.0) for row in rows)
        kept.append((max(softmax(rows[2])) >= 0.6, max(softmax(rows[3])) >= 0.5))
        within += kept[-1][0] * 9 * (divergence(t_w, s_w) + divergence(t_s, s_s)) / B
        across += kept[-1][1] * 9 * (divergence(t_w, s_s) + divergence(t_s, s_w)) / B
    assert len(set(kept)) > 2  # images kept by one mask, both or none
    assert found["within"] == pytest.approx(within)
    assert found["across"] == pytest.approx(across)


def test_with_equal_views_and_no_thresholds_both_terms_are_twice_distillation():
    s, t = rand(B, K), rand(B, K, seed=1)
    found = numbers(make(2.0, 0.0, 0.0), two_views(s, s), two_views(t, t), LABELS)
    kl = [4 * divergence(softmax(b, 2.0), softmax(a, 2.0))
          for a, b in zip(s.tolist(), t.tolist(), strict=True)]  # fmt: skip
    assert found["within"] == found["across"] == pytest.approx(2 * sum(kl) / B)


def test_an_image_at_the_threshold_is_kept():
    half = torch.zeros(1, 2).double()  # [1/2 1/2]
    student = two_views(rand(1, 2), rand(1, 2, seed=1))
    teacher = two_views(half, half)
    at, above = (numbers(make(1.0, tau, tau, classes=2), student, teacher, [0])
                 for tau in (0.5, 0.5001))  # fmt: skip
    assert at["within"] > 0
    assert at["across"] > 0
    assert above["within"] == above["across"] == 0


def test_the_loss_of_an_image_does_not_depend_on_others():
    student, teacher = random_pair(B, K)
    whole = make().per_image(student, teacher, labelled(*LABELS))
    for i, label in enumerate(LABELS):
        one = slice(i, i + 1)
        alone = make().per_image(
            *(two_views(x.logits[one], x.views[STRONG].logits[one]) for x in (student, teacher)),
            labelled(label),
        )
        for name, term in whole.items():
            torch.testing.assert_close(alone[name][0], term[i])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"weak": 1.1}, r"weak_confidence must be in \[0, 1\], got 1.1"),
        ({"strong": -0.1}, r"strong_confidence must be in \[0, 1\], got -0.1"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(UserError, match=message):
        make(**changed)
