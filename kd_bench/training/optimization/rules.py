"""SGD on a gradient that a rule combines from the gradients of parts of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from kd_bench.config.schema import RecipeConfig
from kd_bench.interfaces import GradientRule
from kd_bench.training.optimization.optim import SGD


class RuledSGD(SGD):
    """SGD whose gradients a rule changes before each step.

    Args:
        parameters: all trained parameters.
        recipe: as for SGD.
        rule: combines the gradients of the shared parameters.
        shared: the student's parameters, which get gradients from several terms.
        fused: as for SGD.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        recipe: RecipeConfig,
        rule: GradientRule,
        shared: Iterable[nn.Parameter],
        *,
        fused: bool,
    ):
        super().__init__(parameters, recipe, fused=fused)
        self.rule = rule
        places = {parameter: place for place, parameter in enumerate(self.parameters)}
        self._shared = [parameter for parameter in shared if parameter.requires_grad]
        self._places = [places[parameter] for parameter in self._shared]
        self.buffers = [[torch.zeros_like(p) for p in self._shared] for _ in range(rule.buffers)]

    @property
    def parts(self) -> Sequence[Sequence[str]]:
        """The terms of each part whose gradient the rule needs."""
        return self.rule.parts

    @property
    def state(self) -> list[Tensor]:
        """All tensors that a step changes besides the parameters."""
        return [*super().state, *(buffer for each in self.buffers for buffer in each)]

    def backward(self, total: Tensor, parts: Sequence[Tensor]) -> None:
        """Compute the gradients of the parts and of their sum, and combine them."""
        gradients = [
            torch.autograd.grad(part, self._shared, retain_graph=True, allow_unused=True)
            for part in parts
        ]
        super().backward(total, parts)
        self._combine(gradients)

    @torch.no_grad()
    def _combine(self, parts: Sequence[Sequence[Tensor | None]]) -> None:
        total = [parameter.grad for parameter in self._shared]
        momentum = [self.momentum[place] for place in self._places]
        reached = [
            place
            for place, gradients in enumerate(zip(total, *parts, strict=True))
            if all(gradient is not None for gradient in gradients)
        ]

        def of_reached(tensors: Sequence[Tensor | None]) -> list[Tensor]:
            return [each for place in reached if (each := tensors[place]) is not None]

        self.rule.combine(
            of_reached(total),
            [of_reached(part) for part in parts],
            of_reached(momentum),
            [of_reached(buffer) for buffer in self.buffers],
        )

    def state_dict(self) -> dict[str, list]:
        """The state needed to resume training."""
        return {**super().state_dict(), "rule": self.buffers}

    def load_state_dict(self, state: dict[str, list]) -> None:
        """Restore a `state_dict`, in place."""
        super().load_state_dict(state)
        for buffer, saved in zip(self.buffers, state["rule"], strict=True):
            torch._foreach_copy_(buffer, [each.to(buffer[0].device) for each in saved])
