"""KDSVD: singular vectors and their gradient, also in degenerate cases."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, passes_gradcheck, rand
from torch.autograd import gradcheck

from kd_bench.interfaces import UserError
from kd_bench.methods.kdsvd import SingularVectors, align, channel_directions, relation

STAGES = {"stage1": (3, 4, 4), "stage2": (4, 2, 3), "stage3": (6, 2, 2), "pooled": (6,)}
CONTEXT = context_of(STAGES, {**STAGES, "stage2": (4, 3, 3)})
TWO = context_of(
    {"stage1": (2, 1, 3), "stage2": (2, 1, 3)}, {"stage1": (2, 1, 3), "stage2": (2, 1, 3)}
)


def make(context, vectors: int = 1) -> SingularVectors:
    return SingularVectors(context, ["stage1", "stage2", "stage3"], vectors, candidates=4)


def pointing(*direction: float) -> torch.Tensor:
    """One image whose positions are all multiples of one channel vector."""
    places = torch.tensor([1.0, 2.0, 2.0])
    return (torch.tensor(direction)[:, None] * places).view(1, len(direction), 1, 3)


def radial(*differences: float) -> list[float]:
    return [math.exp(-(d**2) / 8) for d in differences]


@pytest.mark.parametrize(
    ("candidates", "student"), [(1, radial(0, 1, -1, 0)), (2, radial(-1, 0, 0, 1))]
)
def test_two_stages_of_two_channels(candidates, student):
    # The teacher's channels point to [1, 0] and then to [0.6, 0.8], so the entries differ by
    # [[0.6 - 1, 0.6 - 0], [0.8 - 1, 0.8 - 0]]. The student's point to [1, 0] twice: [[0, 1],
    # [-1, 0]]. The second candidate is [0, 1], which is more similar: [[-1, 0], [0, 1]].
    loss = SingularVectors(TWO, ["stage1", "stage2"], vectors=1, candidates=candidates)
    given = output_of(stage1=pointing(1, 0), stage2=pointing(1, 0))
    wanted = output_of(stage1=pointing(1, 0), stage2=pointing(0.6, 0.8))
    teacher = radial(-0.4, 0.6, -0.2, 0.8)
    expected = sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True))
    value = loss(given, wanted, batch_of(TWO, 1)).item()
    assert value == pytest.approx(expected, rel=1e-4)


def test_it_sums_over_stages_and_averages_over_images():
    s = {stage: rand(3, *CONTEXT.student[stage], seed=i) for i, stage in enumerate(STAGES)}
    t = {stage: rand(3, *CONTEXT.teacher[stage], seed=9 + i) for i, stage in enumerate(STAGES)}
    expected = sum(slow(s, t, image) for image in range(3)) / 3
    value = make(CONTEXT)(output_of(**s), output_of(**t), batch_of(CONTEXT, 3)).item()
    assert value == pytest.approx(expected, rel=1e-9)


def slow(student: dict, teacher: dict, image: int) -> float:
    """The loss of one image, with NumPy's decomposition and loops."""

    def rows(x: torch.Tensor) -> np.ndarray:
        return np.linalg.svd(x[image].flatten(1).T.numpy(), full_matrices=False)[2]

    vectors = []
    for stage in ("stage1", "stage2", "stage3"):
        t = rows(teacher[stage])[0]
        t = -t if t.sum() < 0 else t
        s = max(rows(student[stage])[:4], key=lambda v: abs(v @ t))
        vectors.append((s if s @ t > 0 else -s, t))
    total = 0.0
    for (s_before, t_before), (s, t) in pairwise(vectors):
        for c in range(len(s)):
            for d in range(len(s_before)):
                r_s = math.exp(-((s[c] - s_before[d]) ** 2) / 8)
                r_t = math.exp(-((t[c] - t_before[d]) ** 2) / 8)
                total += (r_s - r_t) ** 2
    return total


def test_directions_are_of_channels_not_of_positions():
    # mdistiller reshapes to [C*H, W]: its vectors are as long as the image is wide.
    vectors, values = channel_directions(rand(2, 5, 3, 4), 4)
    assert vectors.shape == (2, 5, 4)
    assert values.shape == (2, 4)


def test_a_map_with_few_positions_has_few_directions():
    assert channel_directions(rand(2, 5, 1, 2), 4)[0].shape == (2, 5, 2)


def test_it_is_invariant_to_scale_and_the_order_of_positions():
    x = rand(2, 3, 2, 4)
    shuffled = 7 * x.flatten(2)[..., [4, 2, 7, 0, 1, 6, 3, 5]].view_as(x)
    one, other = (channel_directions(y, 1)[0] for y in (x, shuffled))
    torch.testing.assert_close(align(other, one), one)  # the sign of singular vectors is arbitrary


def test_the_most_similar_vector_is_chosen_and_sign_corrected():
    student = torch.tensor([[[1.0, 0.0], [0.0, -1.0]]])  # columns [1, 0] and [0, -1]
    teacher = torch.tensor([[[0.6], [0.8]]])
    assert align(student, teacher).tolist() == [[[0.0], [1.0]]]


def test_maps_after_a_relu_fix_the_sign_of_the_first_vector():
    # Perron-Frobenius: the first vector of a nonnegative matrix is nonnegative.
    x = rand(4, 3, 4, 4).relu()
    _, t = make(CONTEXT)._directions(x, x)
    assert t.min() >= 0


def test_relation_compares_every_pair_of_entries():
    # (2 - 0)^2 / 8 = 1/2 and (2 - 2)^2 / 8 = 0
    first, second = torch.tensor([[[2.0]]]), torch.tensor([[[0.0], [2.0]]])
    expected = torch.tensor([math.exp(-0.5), 1.0])
    torch.testing.assert_close(relation(first, second).flatten(), expected)


# --- the gradient -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (2, 6, 2, 2), (2, 4, 2, 2), (2, 1, 2, 2)])
def test_the_gradient_of_directions_matches_finite_differences(shape):
    # More positions than channels, fewer, equal, one channel. Projectors are sign-free.
    def projector(x: torch.Tensor) -> torch.Tensor:
        vectors, _ = channel_directions(x, 2)
        return vectors @ (vectors * torch.tensor([1.0, 3.0])[: vectors.shape[2]]).transpose(1, 2)

    assert gradcheck(projector, rand(*shape).requires_grad_())


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-5, 1e-3])
def test_equal_singular_values_have_a_bounded_gradient(gap):
    # 1 / (2 MIXED) = 5000 for squared values that sum to one, and two factors of size one
    x = torch.diag(torch.tensor([1 + gap, 1.0, 0.5])).view(1, 3, 1, 3).requires_grad_()
    channel_directions(x, 1)[0].sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()
    assert x.grad.abs().max() < 1e4


def test_a_zero_map_has_zero_gradient():
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    vectors, values = channel_directions(x, 2)
    vectors.sum().backward()
    assert vectors.isfinite().all()
    assert not values.any()
    assert not x.grad.any()


def test_two_vectors_pass_gradcheck():
    assert passes_gradcheck(make(CONTEXT, 2), CONTEXT, size=2)


# --- errors -----------------------------------------------------------------------------------


def test_unequal_channels_are_refused_with_both_shapes():
    context = context_of(STAGES, {**STAGES, "stage2": (8, 2, 3)})
    with pytest.raises(UserError, match=r"stage2 is 4x2x3 in small and 8x2x3 in large"):
        make(context)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["stage1"], 1, 4), "KDSVD needs two stages or more, got stage1"),
        (
            (["stage1", "stage2"], 0, 4),
            "vectors must be from 1 to 3, the smallest number of channels or positions",
        ),
        ((["stage1", "stage2"], 4, 4), "vectors must be from 1 to 3"),
        ((["stage1", "stage2"], 2, 1), "candidates must be at least as many as vectors"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        SingularVectors(CONTEXT, *arguments)
