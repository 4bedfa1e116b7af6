"""A separate momentum for each part of a method's loss, as used by DOT and DeepKD."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kd_bench.interfaces import GradientRule, Tensors, require


class SeparateMomenta(GradientRule):
    """v_p <- (mu + d_p) v_p + g_p for each part p; theta <- theta - rate sum_p v_p.

    Implemented for the sum V of all v_p, which is SGD's momentum, as V <- mu V + [g + sum_p d_p
    v_p]: if all d are zero, so is the added sum, and the result is bitwise that of SGD. The v of
    the first part is V minus the others. So it contains the weight decay, and each other part costs
    one buffer and one backward pass. Nesterov's momentum, which neither paper uses, looks ahead
    with mu.

    Args:
        parts: the terms of each part, together all terms.
        deltas: d of each part.
        momentum: mu.
    """

    def __init__(self, parts: Sequence[Sequence[str]], deltas: Sequence[float], momentum: float):
        for delta in deltas:
            require(
                momentum > 0 and 0 <= momentum + delta < 1,
                "the momentum of every part must be at least 0 and below 1, and the recipe's above"
                f" 0, got {momentum} + {delta}",
            )
        _, *self.parts = parts
        self.buffers = len(self.parts)
        self._first, *self._others = deltas
        self._momentum = momentum

    def combine(
        self, total: Tensors, parts: list[Tensors], momentum: Tensors, buffers: list[Tensors]
    ) -> None:
        torch._foreach_add_(total, momentum, alpha=self._first)
        for delta, gradient, own in zip(self._others, parts, buffers, strict=True):
            torch._foreach_add_(total, own, alpha=delta - self._first)
            torch._foreach_mul_(own, self._momentum + delta)
            torch._foreach_add_(own, gradient)
