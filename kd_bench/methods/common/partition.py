"""The softmax of a group of classes: its probability against the rest, and the classes within it.

A group is a mask [B, K], which differs between images. Masked logits are replaced by a large
negative number, since minus infinity would give NaN for an empty group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_bench.methods.common.functional import kl


def is_class(index: Tensor, logits: Tensor) -> Tensor:
    """The mask of one class per image: [B] int64, logits [B, K] -> [B, K] bool."""
    return index[:, None] == torch.arange(logits.shape[1], device=logits.device)


def top_classes(logits: Tensor, count: int) -> Tensor:
    """The mask of the `count` classes with the largest logits: [B, K] -> [B, K] bool.

    Classes that tie with the last one are included, so that no class is favoured by its index.
    """
    return logits >= logits.topk(count, dim=1).values[:, -1:]


def log_split(logits: Tensor, group: Tensor) -> Tensor:
    """log P(group) and log(1 - P(group)): [B, K], [B, K] bool -> [B, 2]."""
    parts = [_only(logits, mask).logsumexp(1) for mask in (group, ~group)]
    return torch.stack(parts, 1).log_softmax(1)


def log_within(logits: Tensor, group: Tensor) -> Tensor:
    """Log-probabilities given the group: [B, K], [B, K] bool -> [B, K], 0 outside the group.

    The zeros make sums over classes ignore the other classes. An empty group gives only zeros.
    """
    return _only(logits, group).log_softmax(1).masked_fill(~group, 0.0)


def kl_between(student: Tensor, teacher: Tensor, group: Tensor) -> Tensor:
    """KL of the probabilities of a group and of the rest: logits [B, K], group [B, K] -> [B]."""
    return kl(log_split(teacher, group), log_split(student, group))


def kl_within(student: Tensor, teacher: Tensor, group: Tensor) -> Tensor:
    """KL of the probabilities given the group: logits [B, K], group [B, K] -> [B].

    0 for groups with at most one class.
    """
    return kl(log_within(teacher, group), log_within(student, group))


def _only(logits: Tensor, group: Tensor) -> Tensor:
    # Half of the lowest number: subtracting a logit from it does not overflow.
    return logits.masked_fill(~group, torch.finfo(logits.dtype).min / 2)
