"""A momentum of its own for each part of a method's loss: what DOT and DeepKD have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kd_bench.interfaces import GradientRule, Tensors, require


class SeparateMomenta(GradientRule):
    """v_p <- (mu + d_p) v_p + g_p for each part p; theta <- theta - rate sum_p v_p.

    Written for the sum V of all v_p, which is the momentum of SGD, as V <- mu V + [g + sum_p d_p
    v_p]: where all d are zero, what is added is zero, and the bits are those of SGD. The v of the
    first part is V without the others. So it has the weight decay, and each other part costs one
    buffer and one backward pass. Nesterov's momentum, which neither paper has, looks ahead with mu.

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
