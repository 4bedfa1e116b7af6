"""The learning rate of every step of the main phase (for the init phase, see `setup.phases`)."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_bench.config.schema import RecipeConfig, Schedule


def milestone_epochs(recipe: RecipeConfig) -> list[int]:
    """The epochs after which the learning rate drops: 0.5 of 200 epochs is after epoch 100.

    Milestones are fractions, so the schedule scales with `recipe.epochs=30`.
    """
    return [round(fraction * recipe.epochs) for fraction in recipe.milestones]


def learning_rates(recipe: RecipeConfig, steps_per_epoch: int) -> Tensor:
    """The learning rate of every step of a run, equal to PyTorch's schedulers of the same names.

    Computed in closed form, because those need an optimizer of `torch.optim` (see `Optimizer`). A
    linear warm-up multiplies the rate of step s (from 1) of its S steps by s / S, as in Goyal et
    al., 2017, arXiv:1706.02677, section 2.2, but from 0.

    Returns:
        [epochs * steps_per_epoch] float64.
    """
    if recipe.schedule is Schedule.onecycle:
        return _one_cycle(recipe, recipe.epochs * steps_per_epoch)
    epoch = torch.arange(recipe.epochs, dtype=torch.float64)
    if recipe.schedule is Schedule.step:
        drops = (epoch[:, None] >= torch.tensor(milestone_epochs(recipe))).sum(1)
        rates = recipe.lr * recipe.gamma ** drops.double()
    elif recipe.schedule is Schedule.cosine:
        rates = _cosine(recipe.lr, recipe.min_lr, epoch / recipe.epochs)
    else:
        rates = torch.full_like(epoch, recipe.lr)
    rates = rates.repeat_interleave(steps_per_epoch)
    return rates * _warmup_factors(recipe, len(rates)) if recipe.linear_warmup else rates


def _warmup_factors(recipe: RecipeConfig, steps: int) -> Tensor:
    """The factor of every step's rate: s / S during the warm-up, and then 1."""
    step = torch.arange(1, steps + 1, dtype=torch.float64)
    return (step / (recipe.linear_warmup * steps)).clamp(max=1.0)


def _one_cycle(recipe: RecipeConfig, steps: int) -> Tensor:
    """Warms up from 1/25 of the rate to the rate, then anneals to 1/10,000 of the start."""
    start, peak = recipe.lr / 25, recipe.warmup * steps - 1
    step = torch.arange(steps, dtype=torch.float64)
    rising = _cosine(start, recipe.lr, step / peak)
    falling = _cosine(recipe.lr, start / 1e4, (step - peak) / (steps - 1 - peak))
    return torch.where(step < peak, rising, falling)


def _cosine(start: float, end: float, part: Tensor) -> Tensor:
    """Half a cosine from `start`, at part 0, to `end`, at part 1."""
    return end + (start - end) / 2 * (1 + torch.cos(torch.pi * part))
