"""The optimizer, and the learning rates of the main phase (`setup.phases` has the init phase's)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from kd_bench.config.schema import RecipeConfig, Schedule
from kd_bench.utils.errors import require


def check_recipe(recipe: RecipeConfig) -> None:
    """Check that a recipe's values are in range.

    Raises:
        UserError: naming the value and its range.
    """
    name = f"recipe '{recipe.name}'"
    require(recipe.epochs >= 1, f"{name}: epochs must be 1 or more, got {recipe.epochs}")
    require(
        recipe.batch_size >= 1, f"{name}: batch_size must be 1 or more, got {recipe.batch_size}"
    )
    for value in ("lr", "gamma"):
        number = getattr(recipe, value)
        require(0 < number < math.inf, f"{name}: {value} must be above 0 and finite, got {number}")
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

    Milestones are fractions, so the schedule scales with `recipe.epochs=30`.
    """
    return [round(fraction * recipe.epochs) for fraction in recipe.milestones]


def learning_rates(recipe: RecipeConfig, steps_per_epoch: int) -> Tensor:
    """The learning rate of every step of a run, equal to PyTorch's schedulers of these names.

    In closed form, because those need an optimizer of `torch.optim`; see `SGD`.

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
        rates = _cosine(recipe.lr, 0.0, epoch / recipe.epochs)
    else:
        rates = torch.full_like(epoch, recipe.lr)
    return rates.repeat_interleave(steps_per_epoch)


def _one_cycle(recipe: RecipeConfig, steps: int) -> Tensor:
    """Warms up from a 25th of the rate to the rate, then anneals to a 10,000th of the start."""
    start, peak = recipe.lr / 25, recipe.warmup * steps - 1
    step = torch.arange(steps, dtype=torch.float64)
    rising = _cosine(start, recipe.lr, step / peak)
    falling = _cosine(recipe.lr, start / 1e4, (step - peak) / (steps - 1 - peak))
    return torch.where(step < peak, rising, falling)


def _cosine(start: float, end: float, part: Tensor) -> Tensor:
    """Half a cosine from `start`, at part 0, to `end`, at part 1."""
    return end + (start - end) / 2 * (1 + torch.cos(torch.pi * part))


class SGD:
    """Stochastic gradient descent with momentum, with the learning rate as a tensor on the device.

    The arithmetic is PyTorch's (`torch.optim.sgd.sgd`); `torch.optim.SGD` itself imports the
    compiler on first use, which costs every job a second. Momentum buffers are initialized with
    zeros, so that all steps are alike and can be captured; after the first step they equal its
    gradient. Weight decay applies to all parameters including batch norm, as in the field's
    reference code. Parameters without a gradient are not updated.

    Args:
        parameters: all trained parameters.
        recipe: momentum, weight decay and the first learning rate.
        fused: one kernel for many parameters; rounds differently than separate updates.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: RecipeConfig, *, fused: bool):
        self.parameters = list(parameters)
        # The learning rate of the next step.
        self.rate = torch.tensor(recipe.lr, device=self.parameters[0].device)
        has_momentum = recipe.momentum > 0
        self.momentum = [torch.zeros_like(p) if has_momentum else None for p in self.parameters]
        self._recipe, self._fused = recipe, fused

    @property
    def momentum_buffers(self) -> list[Tensor]:
        """The momentum of every parameter; empty for a recipe without momentum."""
        return [momentum for momentum in self.momentum if momentum is not None]

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes beside the parameters."""
        return self.momentum_buffers

    @property
    def parts(self) -> Sequence[Sequence[str]]:
        """Terms whose gradients are needed apart from the others', see `backward`; none here."""
        return ()

    def zero_grad(self) -> None:
        """Reset the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def backward(self, total: Tensor, parts: Sequence[Tensor]) -> None:
        """Compute the gradients that `step` follows.

        Args:
            total: the weighted sum of all terms.
            parts: that of the terms of each of `self.parts`.
        """
        self.zero_grad()
        total.backward()

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        pairs = zip(self.parameters, self.momentum, strict=True)
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        momenta: list[Tensor | None] = []
        for parameter, momentum in pairs:
            if parameter.grad is not None:
                parameters.append(parameter)
                gradients.append(parameter.grad)
                momenta.append(momentum)
        sgd(
            parameters,
            gradients,
            momenta,
            foreach=False,
            fused=self._fused,
            weight_decay=self._recipe.weight_decay,
            momentum=self._recipe.momentum,
            lr=self.rate,  # type: ignore[arg-type]  # annotated as float, but tensors are supported
            dampening=0.0,
            nesterov=self._recipe.nesterov,
            maximize=False,
        )

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The state needed to resume training."""
        return {"momentum": self.momentum_buffers}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Restore a `state_dict`, in place."""
        for momentum, saved in zip(self.momentum_buffers, state["momentum"], strict=True):
            momentum.copy_(saved)
