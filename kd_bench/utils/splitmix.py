"""Counter-based random numbers: the same on every device and in any order."""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit word."""
    return word - (1 << 64) if word >> 63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)
_NONNEGATIVE = (1 << 63) - 1


def _xorshift(z: Tensor, bits: int) -> Tensor:
    # >> on int64 is an arithmetic shift; the mask makes it a logical shift, as in the definition
    return z ^ ((z >> bits) & ((1 << (64 - bits)) - 1))


def splitmix64(state: Tensor) -> Tensor:
    """Output of the generator splitmix64 at `state` (Steele, Lea and Flood, OOPSLA 2014).

    int64 tensors represent the unsigned words bitwise, including overflow. The function is a
    bijection of 64-bit words.
    """
    z = state + _GAMMA
    z = _xorshift(z, 30) * _MIX1
    z = _xorshift(z, 27) * _MIX2
    return _xorshift(z, 31)


def image_word(seed: int, epoch: int | Tensor, index: Tensor) -> Tensor:
    """A random word for each image `index` [B] in an epoch: int64 [B].

    `epoch` may be a tensor, so that a replayed CUDA graph gets new words.
    """
    epoch = torch.as_tensor(epoch).long()
    # a CPU scalar can be combined with an index on any device, without a copy or a sync
    stream = splitmix64(torch.full_like(epoch, seed))
    return splitmix64(splitmix64(stream + epoch) + index)


def further_words(word: Tensor, count: int) -> Tensor:
    """The first `count` outputs of a generator seeded with splitmix64(word): int64 [B, count]."""
    step = torch.arange(count, device=word.device) * _GAMMA
    return splitmix64(splitmix64(word)[:, None] + step)


def uniform(word: Tensor) -> Tensor:
    """A uniform number for each word, above 0 and below 1: float64."""
    fraction = (word >> 12) & ((1 << 52) - 1)
    return (fraction.double() + 0.5) * 2.0**-52


def normal(word: Tensor) -> Tensor:
    """A standard normal number for each word, by the inverse CDF: float64."""
    return torch.special.ndtri(uniform(word))


def below(word: Tensor, count: int | Tensor) -> Tensor:
    """An integer in 0..count-1 for each word: int64, nearly uniform for `count` << 2^63."""
    return (word & _NONNEGATIVE) % count
