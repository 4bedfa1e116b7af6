"""An ensemble of networks."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Logits of the mean of several networks' outputs: images [B, 3, H, W] -> [B, K].

    Args:
        nets: the networks, with the same classes.
        of_logits: average logits instead of probabilities. The logits of a mean of probabilities
            are its logarithm, log(mean_m softmax(z_m)), whose softmax at temperature 1 is the mean.
    """

    def __init__(self, nets: Iterable[nn.Module], *, of_logits: bool):
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.of_logits = of_logits

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.stack([net(image) for net in self.nets])  # [M, B, K]
        if self.of_logits:
            return logits.mean(0)
        return logits.log_softmax(2).logsumexp(0) - math.log(len(self.nets))
