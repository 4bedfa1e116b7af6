"""The optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from kd_bench.config.schema import RecipeConfig


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
