"""The learning rates of all steps, by hand and against PyTorch's schedulers."""

import math

import pytest
import torch
from helpers import shipped
from hypothesis import given, strategies

from kd_bench.config.schema import RecipeConfig, Schedule
from kd_bench.training.optimization import schedule


def recipe(**changes):
    values = {"name": "r", "epochs": 4, "batch_size": 2, "lr": 0.1, **changes}
    return RecipeConfig(**values)


def test_the_rate_drops_after_its_milestones():
    rates = schedule.learning_rates(recipe(milestones=[0.5, 0.75], gamma=0.1), 2)
    # Epochs 1 and 2 at 0.1, epoch 3 at 0.01, epoch 4 at 0.001; two steps each.
    expected = [0.1] * 4 + [0.01] * 2 + [0.001] * 2
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64))


def test_the_cosine_falls_from_the_first_epoch():
    rates = schedule.learning_rates(recipe(schedule=Schedule.cosine), 1)
    # 0.1 (1 + cos(pi e / 4)) / 2 for e = 0..3
    expected = [0.1, 0.05 * (1 + math.cos(math.pi / 4)), 0.05, 0.05 * (1 - math.cos(math.pi / 4))]
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64))


def test_the_cosine_falls_towards_its_minimum():
    rates = schedule.learning_rates(recipe(schedule=Schedule.cosine, min_lr=0.02), 1)
    # 0.02 + 0.08 (1 + cos(pi e / 4)) / 2 for e = 0..3
    side = 0.04 * math.cos(math.pi / 4)
    expected = [0.1, 0.06 + side, 0.06, 0.06 - side]
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64))


def test_a_linear_warm_up_rises_by_equal_steps_to_the_rate_of_the_schedule():
    rates = schedule.learning_rates(recipe(milestones=[0.5], linear_warmup=0.25), 4)
    # Warm-up for a quarter of 4 epochs of 4 steps; drop after epoch 2.
    expected = [0.025, 0.05, 0.075, *[0.1] * 5, *[0.01] * 8]
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64))


def test_a_warm_up_shorter_than_a_step_has_no_effect():
    plain, short = (schedule.learning_rates(recipe(linear_warmup=f), 4) for f in (0.0, 0.01))
    assert torch.equal(plain, short)


def test_deit_warms_up_for_five_epochs():
    rates = schedule.learning_rates(shipped.load("recipe", "deit300"), 100)
    assert rates[499] == pytest.approx(rates[:500].max().item(), rel=1e-4)
    assert rates[249] == pytest.approx(0.5e-3, rel=1e-3)
    assert rates[-1] == pytest.approx(1e-5, rel=1e-2)


def test_one_cycle_warms_up_to_the_peak_and_anneals_to_almost_zero():
    rates = schedule.learning_rates(recipe(schedule=Schedule.onecycle, warmup=0.25, epochs=10), 8)
    peak = int(rates.argmax())
    assert rates[0] == pytest.approx(0.1 / 25)
    assert rates[peak] == pytest.approx(0.1)
    assert peak == 0.25 * 80 - 1
    assert (rates[: peak + 1].diff() > 0).all()
    assert (rates[peak:].diff() < 0).all()
    assert rates[-1] < 1e-5


def test_a_constant_rate_is_constant():
    rates = schedule.learning_rates(recipe(schedule=Schedule.constant), 3)
    assert rates.tolist() == [0.1] * 12


@given(strategies.integers(1, 400), strategies.lists(strategies.floats(0.01, 0.99), max_size=3))
def test_milestones_scale_with_the_number_of_epochs(epochs, fractions):
    for fraction, epoch in zip(
        fractions,
        schedule.milestone_epochs(recipe(epochs=epochs, milestones=fractions)),
        strict=True,
    ):
        assert abs(epoch - fraction * epochs) <= 0.5


def test_the_published_recipes_drop_where_their_papers_do():
    drops = {
        name: schedule.milestone_epochs(shipped.load("recipe", name))
        for name in ("zoo200", "predecessor200", "crd240", "imagenet100")
    }
    assert drops == {
        "zoo200": [100, 150],
        "predecessor200": [100, 150],
        "crd240": [150, 180, 210],
        "imagenet100": [30, 60, 90],
    }


def steps_of(scheduler, optimizer, count):
    """The learning rates of a PyTorch scheduler."""
    for _ in range(count):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("changes", "make"),
    [
        (
            {"milestones": [0.2, 0.2, 0.7]},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 2, 7]),
        ),
        (
            {"schedule": Schedule.cosine},
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        ),
        (
            {"schedule": Schedule.cosine, "min_lr": 0.01},
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10, eta_min=0.01),
        ),
        (
            {"schedule": Schedule.constant, "linear_warmup": 0.5},
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.2, total_iters=4),  # 1/5 to 5/5
        ),
        (
            {"schedule": Schedule.onecycle, "warmup": 0.3},
            lambda o: torch.optim.lr_scheduler.OneCycleLR(
                o, 0.1, 10, pct_start=0.3, cycle_momentum=False
            ),
        ),
        (
            {"schedule": Schedule.onecycle, "warmup": 0.05},  # warm-up of less than one step
            lambda o: torch.optim.lr_scheduler.OneCycleLR(
                o, 0.1, 10, pct_start=0.05, cycle_momentum=False
            ),
        ),
    ],
    ids=[
        "step",
        "cosine",
        "cosine to a minimum",
        "linear warm-up",
        "onecycle",
        "onecycle without warm-up",
    ],
)
def test_rates_match_pytorch_schedulers(changes, make):
    dummy = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = list(steps_of(make(dummy), dummy, 10))
    ours = schedule.learning_rates(recipe(epochs=10, **changes), 1)
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64))
