"""IRG: edges and transformations by hand, and unequal channels."""

from __future__ import annotations

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand

from kd_bench.interfaces import UserError
from kd_bench.methods.irg import InstanceRelationshipGraph, edges, transformation

CONTEXT = context_of(
    {"stage1": (2, 4, 4), "stage2": (4, 2, 2), "stage3": (3, 1, 1), "pooled": (3,)},
    {"stage1": (3, 4, 4), "stage2": (5, 4, 2), "stage3": (5, 2, 2), "pooled": (5,)},
)


def make(context) -> InstanceRelationshipGraph:
    return InstanceRelationshipGraph(context, ["stage2", "stage3"])


def test_edges_are_squared_distances_over_the_largest():
    # Images at 0, 3 and 4: squares 9, 16 and 1 over 16
    x = torch.tensor([0.0, 3.0, 4.0]).view(3, 1, 1, 1)
    expected = [[0, 9 / 16, 1], [9 / 16, 0, 1 / 16], [1, 1 / 16, 0]]
    torch.testing.assert_close(edges(x), torch.tensor(expected))


def test_edges_are_invariant_to_shift_scale_and_rotation():
    x = rand(5, 4)
    turn, _ = torch.linalg.qr(rand(4, 4, seed=1))
    torch.testing.assert_close(edges(7 * x @ turn + rand(1, 4, seed=2)), edges(x))


def test_a_transformation_is_a_relative_squared_distance():
    # First stage: one channel, [1, 3] averages to 2. Second: channels [2, 4] to 3, [1, 1] to 1 and
    # [0, 8] to 4. Squares: (2 - 3)^2, (2 - 1)^2, (2 - 4)^2 over 4
    first = torch.tensor([1.0, 3.0]).expand(3, 1, 1, 2)
    second = torch.tensor([[2.0, 4.0], [1.0, 1.0], [0.0, 8.0]]).view(3, 2, 1, 1)
    assert transformation(first, second).tolist() == [0.25, 0.25, 1.0]


def test_twice_the_channels_are_averaged_in_pairs():
    # As in Knowledge-Distillation-Zoo, with a loop
    first, second = rand(3, 2, 4, 4), rand(3, 4, 2, 2, seed=1)
    moved = torch.zeros(3, dtype=torch.double)
    for i in range(3):
        for c in range(2):
            for y in range(2):
                for x in range(2):
                    cell = first[i, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
                    pair = second[i, 2 * c : 2 * c + 2, y, x].mean()
                    moved[i] += (cell - pair) ** 2
    torch.testing.assert_close(transformation(first, second), moved / moved.max())


def test_either_stage_can_be_the_wider_one():
    first, second = rand(3, 5, 1, 1), rand(3, 3, 1, 1, seed=1)
    torch.testing.assert_close(transformation(first, second), transformation(second, first))
    # Five channels to three, over the cells of adaptive pooling: 0-1, 1-3, 3-4
    cells = torch.stack([first[:, a:b].mean(1) for a, b in ((0, 2), (1, 4), (3, 5))], 1)
    expected = (cells - second).square().sum((1, 2, 3))
    torch.testing.assert_close(transformation(first, second), expected / expected.max())


def test_the_terms_are_means_over_their_entries():
    student = output_of(
        rand(3, 4),
        **{s: rand(3, *CONTEXT.student[s], seed=i) for i, s in enumerate(CONTEXT.student)},
    )
    teacher = output_of(
        rand(3, 4, seed=8),
        **{s: rand(3, *CONTEXT.teacher[s], seed=9 + i) for i, s in enumerate(CONTEXT.teacher)},
    )
    loss = InstanceRelationshipGraph(CONTEXT, ["stage1", "stage2", "stage3"])
    terms = loss(student, teacher, batch_of(CONTEXT, 3))
    s, t = student.features, teacher.features
    vertex = (student.logits - teacher.logits).square().sum() / 12
    edge = sum((edges(s[x]) - edges(t[x])).square().sum() / 9 for x in CONTEXT.student) / 4
    moves = [
        (transformation(s[a], s[b]) - transformation(t[a], t[b])).square().sum() / 3
        for a, b in (("stage1", "stage2"), ("stage2", "stage3"))
    ]
    expected = {"vertex": vertex, "edge": edge, "transformation": sum(moves) / 2}
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name])


def test_a_single_stage_is_refused():
    with pytest.raises(UserError, match=r"^IRG needs two stages or more, got stage3$"):
        InstanceRelationshipGraph(CONTEXT, ["stage3"])


def test_a_single_image_works():
    terms = make(CONTEXT)(
        output_of(**{s: torch.zeros(1, *CONTEXT.student[s]) for s in CONTEXT.student}),
        output_of(**{s: torch.zeros(1, *CONTEXT.teacher[s]) for s in CONTEXT.teacher}),
        batch_of(CONTEXT, 1),
    )
    assert all(term == 0 for term in terms.values())
