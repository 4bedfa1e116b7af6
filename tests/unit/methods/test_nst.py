"""NST: maximum mean discrepancy between the channels of two maps."""

from __future__ import annotations

import pytest
import torch
from helpers.maps import channels
from helpers.outputs import batch_of, context_of, output_of, rand
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kd_bench.interfaces import UserError
from kd_bench.methods.nst import NeuronSelectivity

CONTEXT = context_of(
    {"stage1": (2, 4, 2), "stage2": (2, 2, 2), "pooled": (2,)},
    {"stage1": (3, 2, 2), "stage2": (3, 2, 2), "pooled": (3,)},
)
BATCH = batch_of(CONTEXT, 2)


def nst(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    loss = NeuronSelectivity(CONTEXT, ["stage1"])
    return loss(output_of(stage1=student), output_of(stage1=teacher), BATCH)


def test_the_discrepancy_matches_hand_computed_kernels():
    # Student [1, 0], [0, 1]: (1 + 0 + 0 + 1) / 4 = 1/2. Teacher [1, 1] / sqrt 2: 1.
    # Between them (1/2 + 1/2) / 2 = 1/2. Together 1/2 + 1 - 2 · 1/2 = 1/2
    value = nst(channels([2.0, 0.0], [0.0, 3.0]), channels([5.0, 5.0]))
    assert value.item() == pytest.approx(0.5)


def test_it_is_the_mean_over_all_pairs_of_channels_of_an_image():
    student, teacher = rand(3, 4, 2, 3), rand(3, 5, 2, 3, seed=1)

    def mean_over_pairs(first, second):
        total = 0.0
        for image in range(3):
            for a in first[image]:
                for b in second[image]:
                    total += float((a * b).sum() / (a.norm() * b.norm())) ** 2
        return total / (3 * first.shape[1] * second.shape[1])

    expected = mean_over_pairs(student, student) + mean_over_pairs(teacher, teacher)
    expected -= 2 * mean_over_pairs(student, teacher)
    assert nst(student, teacher).item() == pytest.approx(expected)


def test_it_sums_over_stages():
    x, y = channels([1.0, 0.0], [0.0, 1.0]), channels([1.0, 1.0])
    loss = NeuronSelectivity(CONTEXT, ["stage1", "stage2"])
    value = loss(output_of(stage1=x, stage2=x), output_of(stage1=y, stage2=y), BATCH)
    assert value.item() == pytest.approx(1.0)


def test_it_is_invariant_to_the_order_scale_and_number_of_channels():
    # Duplicating every channel does not change the distribution.
    student = rand(2, 4, 3, 3)
    teacher = student[:, [2, 0, 3, 1]].repeat(1, 3, 1, 1)
    scale = torch.rand(1, 12, 1, 1).double() + 0.5
    assert nst(student, scale * teacher).item() == pytest.approx(0, abs=1e-15)
    assert nst(student, teacher.roll(1, 2)).item() > 1e-3


def test_maps_of_different_size_are_pooled_to_the_smaller_one():
    # [2, 4, 6, 6] averages to [3, 6], a multiple of [1, 2].
    value = nst(channels([2.0, 4.0, 6.0, 6.0]), channels([1.0, 2.0]))
    assert value.item() == pytest.approx(0, abs=1e-6)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor returned by any operation."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if torch.is_tensor(x)]
        self.numel = max([self.numel, *sizes])
        return out


def test_no_tensor_holds_all_pairs_of_channels_at_all_positions():
    student, teacher = torch.randn(2, 8, 8, 8, requires_grad=True), torch.randn(2, 16, 8, 8)
    with Largest() as largest:
        nst(student, teacher).backward()
    assert largest.numel == teacher.numel()  # a product by broadcasting would have 8 times this


def test_a_stage_that_is_not_a_map_is_refused():
    with pytest.raises(UserError, match=r"^stage 'pooled' of small is not a map \[C, H, W\]"):
        NeuronSelectivity(CONTEXT, ["pooled"])
