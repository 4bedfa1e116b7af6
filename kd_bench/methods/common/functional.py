"""Stateless functions of tensors that the losses share."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence between softened predictions, per image: [B, K], [B, K] -> [B].

    KL(p || q) = sum_k p_k log(p_k / q_k) with p = softmax(teacher / T), q = softmax(student / T);
    Hinton, Vinyals and Dean, arXiv:1503.02531, section 2.

    The factor T^2 is left to the methods. Returns one value per image, so that methods can weight
    or mask images before averaging.
    """
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return kl(log_p, log_q)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_k p_k log(p_k / q_k), from log-probabilities: [B, K], [B, K] -> [B].

    Differentiable in both. Log-probabilities must be finite, like those of `log_softmax`; a
    probability that underflows to 0 then adds 0.
    """
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q) from log-probabilities, with the share between 0 and 1."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def attention_map(features: Tensor) -> Tensor:
    """Spatial attention map of a network: [B, C, H, W] -> [B, H*W], rows of unit length.

    Q = mean_c F_c^2, flattened and divided by its L2 norm; Zagoruyko and Komodakis,
    arXiv:1612.03928, section 3.1 (F^2_sum; mean and sum are the same after normalization). Features
    that are zero everywhere give zeros and zero gradients.
    """
    energy = features.pow(2).mean(1).flatten(1)  # [B, H*W]
    return F.normalize(energy, dim=1, eps=1e-12)


def unit(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Normalize vectors along `dim` to unit length; zero vectors stay zero.

    F.normalize, in contrast, multiplies the gradient of a zero vector by 1e12.
    """
    length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / length.masked_fill(length == 0, 1.0)


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum of one or more tensors, from left to right; always a tensor, unlike `sum`."""
    return reduce(operator.add, terms)


def standardize(x: Tensor, dim: int) -> Tensor:
    """Standardize to mean 0 and (biased) variance 1 along `dim`; invariant to shift and scale of x.

    Values that differ by no more than rounding become zeros with zero gradients. Adding an epsilon
    to the deviation would break the invariance, and turn rounding errors into large gradients.
    """
    centred = x - x.mean(dim, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    rounding = 1e-6 * torch.linalg.vector_norm(x.detach(), dim=dim, keepdim=True)
    equal = length <= rounding.clamp(min=1e-18)  # its square is still a normal float32
    unit_length = torch.where(equal, 0.0, centred / length.masked_fill(equal, 1.0))
    return math.sqrt(x.shape[dim]) * unit_length


def correlation(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Pearson's correlation of x and y along `dim`, which is removed; 0 where either is constant.

    Invariant to shift and positive scale of x and of y.
    """
    return (standardize(x, dim) * standardize(y, dim)).mean(dim)


def class_means(parts: Iterable[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    """Mean of the vectors of each class: [K, C] in double precision; zeros for an empty class.

    Args:
        parts: vectors [B, C] and their classes [B].
        classes: K.
    """
    # Matrix products, because scatter-add on a GPU is not reproducible.
    membership = ((F.one_hot(target, classes).double(), x.double()) for x, target in parts)
    sums = [(member.T @ x, member.sum(0)) for member, x in membership]
    total, count = (sum_of(each) for each in zip(*sums, strict=True))
    return total / count.clamp(min=1)[:, None]
