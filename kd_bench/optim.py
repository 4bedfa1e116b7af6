"""The optimizer and the learning rate of every step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from kd_bench.errors import require
from kd_bench.schema import RecipeConfig, Schedule


def check_recipe(recipe: RecipeConfig) -> None:
    """Refuse values that cannot train anything.

    Raises:
        UserError: naming the value and its range.
    """
    name = f"recipe '{recipe.name}'"
    require(recipe.epochs >= 1, f"{name}: epochs must be 1 or more, got {recipe.epochs}")
    require(
        recipe.batch_size >= 1, f"{name}: batch_size must be 1 or more, got {recipe.batch_size}"
    )
    require(recipe.lr > 0, f"{name}: lr must be above 0, got {recipe.lr}")
    require(0 <= recipe.momentum < 1, f"{name}: momentum must be in [0, 1), got {recipe.momentum}")
    require(
        not recipe.nesterov or recipe.momentum > 0, f"{name}: nesterov needs a momentum above 0"
    )
    require(
        recipe.weight_decay >= 0,
        f"{name}: weight_decay must be 0 or more, got {recipe.weight_decay}",
    )
    require(
        all(0 < fraction < 1 for fraction in recipe.milestones),
        f"{name}: milestones are fractions of the epochs, above 0 and below 1,"
        f" got {list(recipe.milestones)}",
    )
    require(
        0 < recipe.warmup < 1 or recipe.schedule is not Schedule.onecycle,
        f"{name}: onecycle needs a warmup above 0 and below 1, got {recipe.warmup}",
    )


def milestone_epochs(recipe: RecipeConfig) -> list[int]:
    """The epochs after which the learning rate drops: 0.5 of 200 epochs is after epoch 100.

    Milestones are fractions, so a recipe keeps its shape under `recipe.epochs=30`.
    """
    return [round(fraction * recipe.epochs) for fraction in recipe.milestones]


def learning_rates(recipe: RecipeConfig, steps_per_epoch: int) -> Tensor:
    """The learning rate of every step of a run, as PyTorch's own schedulers give it.

    Returns:
        [epochs * steps_per_epoch] float64.
    """
    dummy = torch.optim.SGD([torch.zeros(1)], lr=recipe.lr)
    if recipe.schedule is Schedule.onecycle:
        steps = recipe.epochs * steps_per_epoch
        scheduler = lr_scheduler.OneCycleLR(
            dummy, recipe.lr, steps, pct_start=recipe.warmup, cycle_momentum=False
        )
        return _trace(scheduler, dummy, steps)
    if recipe.schedule is Schedule.step:
        scheduler = lr_scheduler.MultiStepLR(dummy, milestone_epochs(recipe), recipe.gamma)
    elif recipe.schedule is Schedule.cosine:
        scheduler = lr_scheduler.CosineAnnealingLR(dummy, recipe.epochs)
    else:
        scheduler = lr_scheduler.ConstantLR(dummy, factor=1.0)
    return _trace(scheduler, dummy, recipe.epochs).repeat_interleave(steps_per_epoch)


def _trace(scheduler: lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer, n: int) -> Tensor:
    rates = []
    for _ in range(n):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()  # PyTorch warns if the schedule moves before the optimizer does
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


def sgd(
    parameters: Iterable[nn.Parameter], recipe: RecipeConfig, *, fused: bool
) -> torch.optim.Optimizer:
    """SGD over all that learns, whose rate is a tensor on the parameters' device.

    The rate is a tensor so that changing it needs no new optimizer and no host synchronisation.
    Weight decay acts on every parameter, batch norm's too, as in the field's reference code.
    """
    parameters = list(parameters)
    return torch.optim.SGD(
        parameters,
        lr=torch.tensor(recipe.lr, device=parameters[0].device),
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=fused,
        foreach=False if not fused else None,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give the next step its learning rate, without waiting for the device."""
    for group in optimizer.param_groups:
        group["lr"].fill_(rate)
