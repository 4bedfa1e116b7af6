"""The processes that train one job together, each on its share of every batch.

Each process has a replica of everything that is trained, draws the same random numbers, and runs
the networks on its share of a batch, batch norm included. DistributedDataParallel averages the
gradients. For losses that compare the images of a batch, outputs are gathered differentiably: every
process then computes the same loss of the whole batch, the same gradients of the loss's own
modules, and the same memory banks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel

from kd_bench.interfaces import Batch, Output

_CONTIGUOUS = torch.contiguous_format
Value = TypeVar("Value")
Call = Callable[..., Any]  # calls its first argument with the others


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, as seen by one of them; a single process by default.

    All processes must call the methods in the same order, since each call waits for all of them.
    """

    rank: int = 0  # the number of this process
    size: int = 1  # the number of processes

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, order: Tensor, sizes: Sequence[int]) -> Tensor:
        """The parts of all batches that this process trains on, concatenated.

        Args:
            order: positions [N] of an epoch's images.
            sizes: the number of images in each batch, multiples of the number of processes.
        """
        batches = order[: sum(sizes)].split(list(sizes))
        return torch.cat([batch.chunk(self.size)[self.rank] for batch in batches])

    def part(self, count: int) -> slice:
        """The part of `count` images that this process evaluates; each image is in one part."""
        ends = [count * number // self.size for number in (self.rank, self.rank + 1)]
        return slice(*ends)

    def replicate(self, modules: Iterable[nn.Module]) -> Call:
        """A callable that calls a function such that gradients are averaged over all processes.

        This applies to gradients of the `modules`, for everything that the function returns.
        """
        if self.size == 1:
            return call
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch 2.6 lacks the new name
            # Buffers are equal, except batch norm's, which training does not read. Some parameters
            # are unused in an init phase, or if a method leaves out a network's last layers.
            return DistributedDataParallel(
                _Caller(modules), broadcast_buffers=False, find_unused_parameters=True
            )

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the tensors [B, ...] of all processes to [size * B, ...], differentiably."""
        gathered: Tensor = tensor if self.size == 1 else _Gather.apply(self, tensor)
        return gathered

    def whole_output(self, output: Output, stages: Iterable[str]) -> Output:
        """A network's output for the whole batch: logits, and features of the given stages."""
        features = {
            stage: self.gather(output.features[stage])
            for stage in stages
            if stage in output.features
        }
        return replace(output, logits=self.gather(output.logits), features=features)

    def whole_batch(self, batch: Batch) -> Batch:
        """The whole batch, in the order in which one process alone would see it."""
        return replace(
            batch,
            image=self.gather(batch.image),
            target=self.gather(batch.target),
            index=self.gather(batch.index),
            view=None if batch.view is None else self.gather(batch.view),
        )

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Call `make` in the first process, and return its result in all of them."""
        if self.size == 1:
            return make()
        made = [make() if self.is_first else None]
        distributed.broadcast_object_list(made)
        return made[0]  # type: ignore[return-value]  # broadcast from the first process

    @torch.no_grad()
    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of the first one, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            value = tensor.contiguous()
            distributed.broadcast(value, 0)
            tensor.copy_(value)


def call(function: Callable[..., Value], *arguments: Any) -> Value:
    """Call a function; what `Ranks.replicate` returns for a single process."""
    return function(*arguments)


class _Gather(Function):
    """Concatenates the tensors of all processes; PyTorch's own function for this is deprecated.

    The gradient of a process's part is the sum of all processes' gradients for it.
    """

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, tensor: Tensor) -> Tensor:
        ctx.ranks = ranks
        parts = [torch.empty_like(tensor, memory_format=_CONTIGUOUS) for _ in range(ranks.size)]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        total = gradient.clone(memory_format=_CONTIGUOUS)
        distributed.all_reduce(total)
        return None, total.chunk(ctx.ranks.size)[ctx.ranks.rank]


class _Caller(nn.Module):
    """A module that calls functions that use its submodules; DistributedDataParallel wraps it."""

    def __init__(self, modules: Iterable[nn.Module]):
        super().__init__()
        self.modules_used = nn.ModuleList(modules)

    def forward(self, function: Callable[..., Value], *arguments: Any) -> Value:
        return function(*arguments)
