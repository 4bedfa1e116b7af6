"""Perturbed teachers: the noise, the sum of the losses, and new draws in every step."""

import pytest
import torch
from helpers.logit_losses import context, labelled
from helpers.logit_plugins import build, terms
from helpers.outputs import rand

from kd_bench.interfaces import LogitPair, UserError
from kd_bench.methods.plugins.tekap import PerturbedTeachers
from kd_bench.methods.st import SoftTarget

BATCH = labelled(0, 1, 2)
PAIR = LogitPair(rand(3, 10), rand(3, 10, seed=1), 2.0)


def test_the_pairs_are_the_teacher_and_perturbed_teachers():
    first, *others = PerturbedTeachers(context(10), teachers=2, noise=0.25, weight=0.5)(PAIR, BATCH)
    assert first is PAIR
    assert [pair.weight for pair in others] == [1.0, 1.0]  # 0.5 times the pair's weight of 2
    assert all(pair.student is PAIR.student for pair in others)
    assert not torch.equal(others[0].teacher, others[1].teacher)


def test_the_noise_is_standard_normal():
    zeros = LogitPair(torch.zeros(100, 100), torch.full((100, 100), 8.0))
    torch.manual_seed(0)
    _, other = PerturbedTeachers(context(10), teachers=1, noise=0.25, weight=1.0)(zeros, BATCH)
    # (1 - 0.25) * 8 + 0.25 e: mean 6, standard deviation 0.25; ten thousand draws
    assert other.teacher.mean().item() == pytest.approx(6.0, abs=0.01)
    assert other.teacher.std().item() == pytest.approx(0.25, abs=0.01)


def test_the_loss_is_the_teachers_plus_the_weighted_losses_of_perturbed_teachers():
    # In the code of the paper: KL + 0.8 sum of KL to 0.9 z_t + 0.1 e, with T^2
    torch.manual_seed(0)
    found = terms(build("st", context(10), "tekap"), PAIR.student, PAIR.teacher, BATCH)["st"]
    torch.manual_seed(0)
    loss = SoftTarget(None, 4.0)
    from_teacher = terms(build("st", context(10)), PAIR.student, PAIR.teacher, BATCH)["st"]
    by_hand = from_teacher.item()
    for _ in range(3):
        teacher = 0.9 * PAIR.teacher + 0.1 * torch.randn(3, 10, dtype=torch.double)
        method = build("st", context(10))
        method.losses["st"] = loss
        by_hand += 0.8 * terms(method, PAIR.student, teacher, BATCH)["st"].item()
    assert found.item() == pytest.approx(by_hand)


def test_without_noise_the_loss_is_a_multiple_of_the_plain_loss():
    plugin = PerturbedTeachers(context(10), teachers=3, noise=0.0, weight=0.8)
    pairs = plugin(LogitPair(PAIR.student, PAIR.teacher), BATCH)
    assert all(torch.equal(pair.teacher, PAIR.teacher) for pair in pairs)
    assert sum(pair.weight for pair in pairs) == pytest.approx(3.4)


def test_every_step_draws_new_noise():
    method = build("st", context(10), "tekap")
    first, second = (terms(method, PAIR.student, PAIR.teacher, BATCH)["st"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize("wrong", [{"teachers": 0}, {"noise": 1.5}, {"weight": 0.0}], ids=str)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        PerturbedTeachers(context(10), **({"teachers": 3, "noise": 0.1, "weight": 0.8} | wrong))
