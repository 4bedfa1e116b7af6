"""MLKD: values by hand, loops over the formulas, and the variant of the published code."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.jobs import job, trained
from helpers.logit_losses import context, divergence, probabilities, softmax
from helpers.outputs import rand
from helpers.two_views import numbers, random_pair, two_views

from kd_bench.interfaces import UserError
from kd_bench.methods.common.strong_view import STRONG
from kd_bench.methods.mlkd import MultiLevel, PublishedMultiLevel, share_below_median

B, K = 5, 4
LABELS = [0, 1, 2, 3, 0]
AT = [4.0, 3.0, 5.0, 2.0, 6.0]


def paper(temperatures=(1.0,), classes=K):
    return MultiLevel(context(classes), list(temperatures))


def published(temperatures=AT, weak_again=(2.0, 6.0), classes=K):
    return PublishedMultiLevel(context(classes), list(temperatures), list(weak_again))


# By hand


def test_values_by_hand():
    # Weak views: p_t = [3/4 1/4], [1/4 3/4], p_s = [1/2 1/2] twice. Both products of the teacher
    # are [10 6; 6 10] / 16, both of the student 1/2: 4 (1/8)^2 / 2 = 1/32.
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812 for both images. Strong views: no difference, and
    # the label has 1/4 and 3/4: the cross entropy is (ln 4 + ln 4/3) / 2 = 0.836988.
    teacher = probabilities([0.75, 0.25], [0.25, 0.75])
    student = two_views(torch.zeros(2, 2).double(), teacher)
    found = numbers(paper(classes=2), student, two_views(teacher, teacher), [1, 1])
    expected = {"label": 0.836988, "instance": 0.130812, "batch": 1 / 32, "class": 1 / 32}
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "share"), [([4, 1, 3, 2], 0.5), ([3, 1, 2], 2 / 3), ([5, 5, 5], 1), ([7], 1)]
)
def test_the_share_below_the_median(values, share):
    assert share_below_median(torch.tensor(values).double()).item() == pytest.approx(share)


# By loops


def gram(rows):
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def levels(s, t, temperature):
    """The three levels of one view at one temperature, in plain Python."""
    s, t = ([softmax(row, temperature) for row in z.tolist()] for z in (s, t))
    apart = []
    for each in ((s, t), (zip(*s, strict=True), zip(*t, strict=True))):
        ours, theirs = (gram(list(rows)) for rows in each)
        squares = [
            (a - b) ** 2
            for x, y in zip(ours, theirs, strict=True)
            for a, b in zip(x, y, strict=True)
        ]
        apart.append(sum(squares) / len(ours))
    instance = sum(divergence(q, p) for p, q in zip(s, t, strict=True)) / len(s)
    return temperature**2 * instance, *apart


def test_all_levels_are_summed_over_temperatures_and_views():
    student, teacher = random_pair(B, K)
    weak = [levels(student.logits, teacher.logits, each) for each in AT]
    strong = [levels(student.views[STRONG].logits, teacher.views[STRONG].logits, each)
              for each in AT]  # fmt: skip
    found = numbers(paper(AT), student, teacher, LABELS)
    for place, name in enumerate(("instance", "batch", "class")):
        assert found[name] == pytest.approx(sum(each[place] for each in (*weak, *strong)))
    rows = [softmax(row) for row in student.views[STRONG].logits.tolist()]
    surprise = [-math.log(row[label]) for row, label in zip(rows, LABELS, strict=True)]
    assert found["label"] == pytest.approx(sum(surprise) / B)


def test_the_published_code_scales_by_shares_and_uses_weak_views_twice():
    student, teacher = random_pair(B, K)
    weak = {each: levels(student.logits, teacher.logits, each) for each in AT}
    strong = {
        each: levels(student.views[STRONG].logits, teacher.views[STRONG].logits, each)
        for each in AT
    }
    p = [softmax(row) for row in teacher.logits.tolist()]
    # 5 images: the median is the third, so 3 of 5 are at most as confident; 2 of 4 classes.
    assert len({max(row) for row in p}) == 5
    images, classes = 3 / 5, 2 / 4
    found = numbers(published(), student, teacher, LABELS)
    second = [(weak if each in (2.0, 6.0) else strong)[each][0] for each in AT]
    assert found["instance"] == pytest.approx(
        images * sum(each[0] for each in weak.values()) + sum(second)
    )
    assert found["batch"] == pytest.approx(images * sum(each[1] for each in weak.values()))
    assert found["class"] == pytest.approx(classes * sum(each[2] for each in weak.values()))


# Limits and invariances


@pytest.mark.parametrize("loss", [paper(AT), published()], ids=["paper", "published"])
def test_a_student_equal_to_its_teacher_up_to_a_shift_has_no_distance(loss):
    _, teacher = random_pair(B, K)
    shifted = two_views(*(z + rand(B, 1) for z in (teacher.logits, teacher.views[STRONG].logits)))
    found = numbers(loss, shifted, teacher, LABELS)
    assert [found[name] for name in ("instance", "batch", "class")] == pytest.approx([0, 0, 0])
    assert found["label"] > 0


def test_with_equal_views_the_published_code_is_a_multiple_of_the_formula():
    # Six images, three of them below the median, with equal views and each T used once: instance
    # 1/2 + 1 instead of 2, batch and class 1/2 instead of 2.
    z_s, z_t = 2 * rand(6, K), 2 * rand(6, K, seed=1)
    pair = two_views(z_s, z_s), two_views(z_t, z_t)
    formula = numbers(paper(AT), *pair, [*LABELS, 1])
    code = numbers(published(), *pair, [*LABELS, 1])
    assert code["instance"] == pytest.approx(formula["instance"] * 1.5 / 2)
    assert code["batch"] == pytest.approx(formula["batch"] / 4)
    assert code["class"] == pytest.approx(formula["class"] / 4)


def test_the_class_level_is_invariant_to_the_order_of_images():
    student, teacher = random_pair(B, K)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = two_views(student.logits[order], student.views[STRONG].logits[order])
    before, after = (numbers(paper(AT), each, teacher, LABELS) for each in (student, moved))
    assert after["class"] == pytest.approx(before["class"])
    assert after["batch"] != pytest.approx(before["batch"])


def test_the_strong_view_has_the_size_of_the_images():
    image = torch.rand(3, 3, 8, 8)
    (view,) = paper().extra_views(image).values()
    assert view.shape == image.shape
    assert not torch.equal(view, image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: paper([]), "temperatures must be one or more numbers, got none"),
        (lambda: paper([4.0, 0.0]), "each of temperatures must be a number above 0, got 0.0"),
        (lambda: published(AT, [7.0]), r"weak_again must be some of the temperatures, got \[7.0\]"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


# A job


@pytest.mark.slow
def test_a_job_shows_the_student_two_views_per_step_and_is_reproducible(tmp_path):
    one, folder = trained(job(tmp_path / "a", "method=mlkd"))
    _, other = trained(job(tmp_path / "b", "method=mlkd"))
    assert one.views_per_step == 2
    assert (folder / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
