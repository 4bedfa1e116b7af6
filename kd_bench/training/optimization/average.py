"""The exponential moving average (EMA) of a student's weights, evaluated in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, after every step.

    As in timm's ModelEma, buffers such as the statistics of batch norm are averaged as well,
    integers are copied, and the average starts from the current weights.

    Args:
        net: the network; its weights must stay at the same memory addresses.
        decay: at least 0 and below 1.
    """

    def __init__(self, net: nn.Module, decay: float):
        self._weights = list(net.state_dict().values())
        self.state = [weight.clone() for weight in self._weights]
        self._decay = decay

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the weights after a step."""
        for average, weight in zip(self.state, self._weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, 1 - self._decay)
            else:
                average.copy_(weight)

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Replace the network's weights by the average within the context."""
        own = [weight.clone() for weight in self._weights]
        self.apply()
        try:
            yield
        finally:
            _copy(own, self._weights)

    def apply(self) -> None:
        """Copy the average to the network's weights."""
        _copy(self.state, self._weights)

    def load_state(self, saved: list[Tensor]) -> None:
        """Restore a `state`, in place."""
        _copy(saved, self.state)


@torch.no_grad()
def _copy(values: list[Tensor], to: list[Tensor]) -> None:
    for tensor, value in zip(to, values, strict=True):
        tensor.copy_(value)
