"""PKT: neighbour probabilities by hand, and the dependence on batch size."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand

from kd_bench.methods.pkt import ProbabilisticTransfer, neighbour_probability

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})
BATCH = batch_of(CONTEXT, 2)


def value(student: torch.Tensor, teacher: torch.Tensor) -> float:
    return ProbabilisticTransfer(CONTEXT)(
        output_of(pooled=student), output_of(pooled=teacher), BATCH
    ).item()


def test_two_different_images_against_two_equal_ones():
    # Student: cosines [[1, 0], [0, 1]], so similarities [[1, 1/2], [1/2, 1]] and rows [2/3, 1/3].
    # Teacher: all 1, rows [1/2, 1/2]. A row gives (ln(3/4) + ln(3/2)) / 2 = ln(9/8) / 2; two rows
    # over four pairs: ln(9/8) / 4 = 0.029446
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    teacher = torch.tensor([[1.0, 0.0], [5.0, 0.0]])
    assert neighbour_probability(student)[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert value(student, teacher) == pytest.approx(math.log(9 / 8) / 4, rel=1e-5)


def test_it_is_the_mean_over_pairs_of_a_divergence():
    student, teacher = rand(4, 3), rand(4, 5, seed=1)

    def probability(x: torch.Tensor, i: int, j: int) -> float:
        def similarity(a: int, b: int) -> float:
            return (float(x[a] @ x[b]) / float(x[a].norm() * x[b].norm()) + 1) / 2

        return similarity(i, j) / sum(similarity(i, k) for k in range(4))

    expected = 0.0
    for i in range(4):
        for j in range(4):
            s, t = probability(student, i, j), probability(teacher, i, j)
            expected += t * math.log((t + 1e-7) / (s + 1e-7)) / 16
    assert value(student, teacher) == pytest.approx(expected, rel=1e-9)
    assert neighbour_probability(student).sum(1).tolist() == pytest.approx([1.0] * 4)


def test_only_the_directions_of_features_matter():
    # Cosines are invariant to the length of each feature and to rotations.
    student, teacher = rand(4, 3), rand(4, 5, seed=1)
    turn, _ = torch.linalg.qr(rand(3, 3, seed=2))
    stretched = student @ turn * torch.tensor([[1.0], [2], [30], [0.4]])
    assert value(stretched, teacher) == pytest.approx(value(student, teacher), rel=1e-9)
    assert value(stretched, student) == pytest.approx(0, abs=1e-12)


def test_doubling_the_batch_size_halves_the_term():
    # With duplicated images, probabilities halve and ratios are equal. Each row's sum is unchanged:
    # the sum over pairs doubles, and the mean over four times as many pairs halves (up to the
    # epsilon of 1e-7).
    student, teacher = rand(4, 3), rand(4, 5, seed=1)
    twice = value(student.repeat(2, 1), teacher.repeat(2, 1))
    assert twice == pytest.approx(value(student, teacher) / 2, rel=1e-5)


def test_opposite_images_are_not_neighbours_and_stay_finite():
    # A similarity of 0, or below it by rounding
    x = torch.cat([rand(1, 2048), -rand(1, 2048)]).float()
    probability = neighbour_probability(x)
    assert probability.min() >= 0
    assert math.isfinite(value(x, rand(2, 3).float()))
