"""Learning rates of every step, the validation of recipes, and SGD."""

import math

import pytest
import torch
from helpers import shipped
from hypothesis import given, strategies

from kd_bench.config.schema import RecipeConfig, Schedule
from kd_bench.training import optim
from kd_bench.utils.errors import UserError


def recipe(**changes):
    values = {"name": "r", "epochs": 4, "batch_size": 2, "lr": 0.1, **changes}
    return RecipeConfig(**values)


def test_the_rate_drops_after_its_milestones():
    rates = optim.learning_rates(recipe(milestones=[0.5, 0.75], gamma=0.1), 2)
    # Epochs 1 and 2 at 0.1, epoch 3 at 0.01, epoch 4 at 0.001; two steps each.
    expected = [0.1] * 4 + [0.01] * 2 + [0.001] * 2
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64))


def test_the_cosine_falls_from_the_first_epoch():
    rates = optim.learning_rates(recipe(schedule=Schedule.cosine), 1)
    # 0.1 (1 + cos(pi e / 4)) / 2 for e = 0..3
    expected = [0.1, 0.05 * (1 + math.cos(math.pi / 4)), 0.05, 0.05 * (1 - math.cos(math.pi / 4))]
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64))


def test_one_cycle_warms_up_to_the_peak_and_anneals_to_almost_zero():
    rates = optim.learning_rates(recipe(schedule=Schedule.onecycle, warmup=0.25, epochs=10), 8)
    peak = int(rates.argmax())
    assert rates[0] == pytest.approx(0.1 / 25)
    assert rates[peak] == pytest.approx(0.1)
    assert peak == 0.25 * 80 - 1
    assert (rates[: peak + 1].diff() > 0).all()
    assert (rates[peak:].diff() < 0).all()
    assert rates[-1] < 1e-5


def test_a_constant_rate_is_constant():
    rates = optim.learning_rates(recipe(schedule=Schedule.constant), 3)
    assert rates.tolist() == [0.1] * 12


@given(strategies.integers(1, 400), strategies.lists(strategies.floats(0.01, 0.99), max_size=3))
def test_milestones_scale_with_the_number_of_epochs(epochs, fractions):
    for fraction, epoch in zip(
        fractions, optim.milestone_epochs(recipe(epochs=epochs, milestones=fractions)), strict=True
    ):
        assert abs(epoch - fraction * epochs) <= 0.5


def test_the_published_recipes_drop_where_their_papers_do():
    drops = {
        name: optim.milestone_epochs(shipped.load("recipe", name))
        for name in ("zoo200", "predecessor200", "crd240")
    }
    assert drops == {
        "zoo200": [100, 150],
        "predecessor200": [100, 150],
        "crd240": [150, 180, 210],
    }


@pytest.mark.parametrize("name", shipped.choices("recipe"))
def test_every_shipped_recipe_can_train(name):
    checked = shipped.load("recipe", name)
    optim.check_recipe(checked)
    assert checked.name == name
    assert (optim.learning_rates(checked, 3) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": math.inf}, "lr must be above 0 and finite, got inf"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"milestones": [100, 150]}, "milestones are fractions"),
        ({"schedule": Schedule.onecycle}, "onecycle needs a warmup"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_train_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        optim.check_recipe(recipe(**change))


def test_sgd_matches_the_textbook():
    # theta = 1, gradient 2, rate 0.1, momentum 0.9, weight decay 0.5:
    #   g = 2 + 0.5 * 1 = 2.5;  v = 2.5;        theta = 1 - 0.25 = 0.75
    #   g = 2 + 0.5 * 0.75 = 2.375;  v = 0.9 * 2.5 + 2.375 = 4.625;  rate 0.01: theta = 0.70375
    for fused in (True, False):
        theta = torch.nn.Parameter(torch.ones(1))
        sgd = optim.SGD([theta], recipe(weight_decay=0.5), fused=fused)
        for rate, expected in ((0.1, 0.75), (0.01, 0.70375)):
            sgd.rate.fill_(rate)
            theta.grad = torch.tensor([2.0])
            sgd.step()
            assert theta.item() == pytest.approx(expected, rel=1e-6)


def steps_of(scheduler, optimizer, count):
    """The learning rate of each step, from a PyTorch scheduler."""
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
    ids=["step", "cosine", "onecycle", "onecycle without warm-up"],
)
def test_rates_match_pytorch_schedulers(changes, make):
    dummy = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = list(steps_of(make(dummy), dummy, 10))
    ours = optim.learning_rates(recipe(epochs=10, **changes), 1)
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{}, {"nesterov": True}, {"weight_decay": 0.1}, {"momentum": 0.0}],
    ids=lambda changes: ", ".join(changes) or "plain",
)
def test_sgd_equals_pytorch_bitwise(changes, fused):
    torch.manual_seed(0)
    start, rule = torch.randn(5, 7), recipe(**changes)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = optim.SGD([ours], rule, fused=fused)
    reference = torch.optim.SGD(
        [theirs],
        lr=torch.tensor(rule.lr),
        momentum=rule.momentum,
        nesterov=rule.nesterov,
        weight_decay=rule.weight_decay,
        fused=fused,
        foreach=False,
    )
    for _ in range(4):
        ours.grad = torch.randn(5, 7)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
        assert torch.equal(ours, theirs)


def test_sgd_resumes_and_skips_parameters_without_gradient():
    torch.manual_seed(0)
    moved, still = (torch.nn.Parameter(torch.randn(3)) for _ in range(2))
    before = still.detach().clone()
    sgd = optim.SGD([moved, still], recipe(weight_decay=0.1), fused=True)
    moved.grad = torch.randn(3)
    sgd.step()
    assert torch.equal(still, before)
    other = optim.SGD([moved, still], recipe(weight_decay=0.1), fused=True)
    other.load_state_dict(sgd.state_dict())
    assert torch.equal(other.momentum[0], sgd.momentum[0])
    sgd.zero_grad()
    assert moved.grad is None
