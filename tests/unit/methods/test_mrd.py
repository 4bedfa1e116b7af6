"""MRD: pairs by hand and in a loop, the limits of Kendall and Pearson, and chunks of pairs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers.outputs import K, batch_of, context_of, output_of, rand
from torch import Tensor
from torch.autograd import gradcheck

from kd_bench.interfaces import UserError
from kd_bench.methods import mrd
from kd_bench.methods.common.functional import correlation
from kd_bench.methods.mrd import MonotonicRank, rank_agreement

CONTEXT = context_of({}, {})


def make(context=CONTEXT, sharpness: float = 0.5) -> MonotonicRank:
    return MonotonicRank(context, sharpness)


def terms(student: Tensor, teacher: Tensor, sharpness: float = 0.5) -> dict[str, float]:
    batch = batch_of(CONTEXT, len(student))
    value = make(sharpness=sharpness)(output_of(student), output_of(teacher), batch)
    return {name: term.item() for name, term in value.items()}


def slow_agreement(x: list[float], y: list[float], sharpness: float) -> float:
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [math.tanh(sharpness * (x[j] - x[k]) * (y[j] - y[k])) for j, k in pairs]
    return sum(signs) / len(pairs)


def test_agreement_of_three_numbers_by_hand():
    # Products of differences: (1 - 2)(5 - 4) = -1, (1 - 4)(5 - 7) = 6, (2 - 4)(4 - 7) = 6
    value = rank_agreement(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[5.0, 4.0, 7.0]]), 0.5)
    assert value.tolist() == pytest.approx([(2 * math.tanh(3) - math.tanh(0.5)) / 3])


def test_the_rank_term_is_a_mean_over_pairs_of_classes_and_of_images():
    def slow(student: Tensor, teacher: Tensor) -> float:
        x, y = ((z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True) for z in (student, teacher))
        rows = zip(x.tolist(), y.tolist(), strict=True)
        return 1 - sum(slow_agreement(a, b, 0.25) for a, b in rows) / len(student)

    student, teacher = rand(6, K), rand(6, K, seed=1)
    expected = slow(student, teacher) + slow(student.T, teacher.T)
    assert terms(student, teacher)["rank"] == pytest.approx(expected)


def test_the_correlation_term_is_pearsons_distance_over_classes_and_images():
    student, teacher = rand(6, K), rand(6, K, seed=1)
    rows = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(student, teacher, strict=True)]
    columns = [
        torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(student.T, teacher.T, strict=True)
    ]
    expected = 2 - torch.stack(rows).mean() - torch.stack(columns).mean()
    assert terms(student, teacher)["correlation"] == pytest.approx(expected.item())


def test_a_high_sharpness_gives_kendalls_tau():
    # 6 pairs; the second order swaps the last two: 5 agree, 1 disagrees
    x, y = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 2.0, 9.0, 8.0]])
    assert rank_agreement(x, y, 1e6).tolist() == pytest.approx([4 / 6])
    assert rank_agreement(x, -x, 1e6).tolist() == [-1]


def test_a_low_sharpness_gives_pearsons_correlation():
    # tanh(u) is u for small u, and sum_jk (x_j - x_k)(y_j - y_k) is 2 n^2 times the covariance.
    student, teacher = rand(6, K), rand(6, K, seed=1)
    rho = correlation(student, teacher, 1).mean() + correlation(student, teacher, 0).mean()
    value = terms(student, teacher, sharpness=1e-5)["rank"]
    assert (2 - value) / 1e-5 == pytest.approx(rho.item(), rel=1e-5)


def test_a_shift_and_scale_of_all_student_logits_change_nothing():
    student, teacher = rand(6, K), rand(6, K, seed=1)
    assert terms(5 * student - 3, teacher) == pytest.approx(terms(student, teacher))


@pytest.mark.parametrize("numbers", [1, 20, 10_000])
def test_pairs_computed_in_parts_have_the_same_value_and_gradient(monkeypatch, numbers):
    def results() -> tuple[Tensor, Tensor]:
        x = rand(3, 7).requires_grad_()
        value = rank_agreement(x, rand(3, 7, seed=1), 0.5)
        return value, *torch.autograd.grad((value * rand(3, seed=2)).sum(), x)

    whole = results()
    monkeypatch.setattr(mrd, "NUMBERS_AT_ONCE", numbers)
    torch.testing.assert_close(results(), whole)


def test_the_agreement_passes_gradcheck():
    y = rand(3, 5, seed=1)
    assert gradcheck(lambda x: rank_agreement(x, y, 0.7), rand(3, 5).requires_grad_())


def test_a_batch_of_one_has_no_order_of_images():
    # For a student equal to its teacher, the distance is 0 over classes and 1 over images
    student = rand(1, K)
    assert terms(student, student)["correlation"] == pytest.approx(1)
    assert terms(student, student, sharpness=1e9)["rank"] == pytest.approx(1)


def test_a_sharpness_of_zero_is_refused():
    with pytest.raises(UserError, match="sharpness must be a number above 0, got 0"):
        make(sharpness=0)
