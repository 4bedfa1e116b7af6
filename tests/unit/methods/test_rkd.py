"""RKD: a triangle by hand, triplets compared with a loop, and invariances."""

from __future__ import annotations

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand

from kd_bench.methods.rkd import RelationalDistillation, relations

CONTEXT = context_of({"pooled": (2,)}, {"pooled": (3,)})
LOSS = RelationalDistillation(CONTEXT)


def terms(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, float]:
    batch = batch_of(CONTEXT, len(student))
    both = LOSS(output_of(pooled=student), output_of(pooled=teacher), batch)
    return {name: term.item() for name, term in both.items()}


def test_a_right_triangle_against_an_equilateral_one():
    # Sides 3, 4, 5 over their mean 4: 0.75, 1, 1.25; equal sides: 1. Each pair occurs twice among
    # nine: 4 (0.25^2 / 2) / 9 = 0.0138889.
    # Cosines at the corners 0, 3/5, 4/5 against 1/2, each twice among 27 (the others are 0 or 1 in
    # both): 2 (0.5^2 + 0.1^2 + 0.3^2) / 2 / 27 = 0.35 / 27
    right = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    equal = torch.eye(3)
    assert terms(right, equal) == pytest.approx({"distance": 0.125 / 9, "angle": 0.35 / 27})


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def slow(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, float]:
    n = len(student)

    def distance(x: torch.Tensor, i: int, j: int) -> float:
        return float((x[i] - x[j]).norm())

    def mean(x: torch.Tensor) -> float:
        return sum(distance(x, i, j) for i in range(n) for j in range(n)) / (n * (n - 1))

    def cosine(x: torch.Tensor, i: int, j: int, k: int) -> float:
        if i in (j, k):
            return 0.0
        a, b = x[j] - x[i], x[k] - x[i]
        return float(a @ b / (a.norm() * b.norm()))

    s_mean, t_mean = mean(student), mean(teacher)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    far = sum(
        huber(distance(student, i, j) / s_mean - distance(teacher, i, j) / t_mean) for i, j in pairs
    )
    turned = sum(
        huber(cosine(student, i, j, k) - cosine(teacher, i, j, k))
        for i, j in pairs
        for k in range(n)
    )
    return {"distance": far / n**2, "angle": turned / n**3}


def test_it_matches_loops_over_pairs_and_triplets():
    student, teacher = rand(5, 2), rand(5, 3, seed=1)
    student[0] *= 20  # puts some differences into the linear part of the Huber loss
    assert terms(student, teacher) == pytest.approx(slow(student, teacher), rel=1e-9)


def test_relations_are_invariant_to_shift_scale_and_rotation():
    student = rand(5, 2)
    turn, _ = torch.linalg.qr(rand(2, 2, seed=2))
    moved = 7 * student @ turn + rand(1, 2, seed=3)
    assert terms(moved, torch.cat([student, torch.zeros(5, 1)], 1)) == pytest.approx(
        {"distance": 0, "angle": 0}, abs=1e-12
    )


def test_equal_images_have_distance_and_angles_of_zero():
    # Two of three coincide: the mean is over the four positive of nine distances.
    distance, angle = relations(torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 0.0]]))
    assert distance.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    assert angle[0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_equal_images_get_a_gradient_of_ordinary_size():
    # F.normalize would multiply it by 1e12.
    student = torch.ones(3, 2, requires_grad=True)
    both = LOSS(output_of(pooled=student), output_of(pooled=torch.eye(3)), batch_of(CONTEXT, 3))
    sum(both.values()).backward()
    assert student.grad.abs().max() < 10


def test_a_single_image_has_no_relations():
    assert terms(torch.ones(1, 2), torch.ones(1, 3)) == {"distance": 0, "angle": 0}
