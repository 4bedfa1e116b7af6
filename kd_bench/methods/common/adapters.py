"""Bridges between two stage shapes: the only place where sizes are matched."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import LossContext, UserError, require


def map_stages(context: LossContext, stages: Sequence[str]) -> tuple[str, ...]:
    """The stages, all of them maps [C, H, W] in both networks.

    Raises:
        UserError: for an empty list, a stage that a network lacks, and one that is no map.
    """
    listed = isinstance(stages, Sequence) and not isinstance(stages, str)
    require(
        listed and len(stages) > 0,
        f"stages must be a list such as [stage1, stage2], got {stages!r}",
    )
    for stage in stages:
        for network in (context.student, context.teacher_shapes):
            require(
                len(network[stage]) == 3,
                f"stage '{stage}' of {network.model} is no map [C, H, W]; its shape is "
                f"{_size(network[stage])}",
            )
    return tuple(stages)


def require_equal_channels(context: LossContext, stage: str, method: str) -> None:
    """Have it that both networks have as many channels at `stage`, as `method` needs.

    Raises:
        UserError: with both shapes, where they have not.
    """
    student, teacher = context.student[stage], context.teacher_shapes[stage]
    require(
        student[0] == teacher[0],
        f"{method} needs equal channels, but {stage} is {_size(student)} in {context.student.model} "
        f"and {_size(teacher)} in {context.teacher_shapes.model}; take a pair of equal widths",
    )


def to_common_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width: [B, C, H, W], [B, D, J, L] -> same H and W.

    The larger map is averaged over the cells that PyTorch's adaptive average pooling has.
    """
    height, width = (min(s, t) for s, t in zip(student.shape[2:], teacher.shape[2:], strict=True))
    size = height, width
    return _average_pool(student, size), _average_pool(teacher, size)


def to_common_channels(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps with the fewer channels: [B, C, H, W], [B, D, J, L] -> same number of channels.

    The wider map's channels are averaged over the cells of adaptive pooling: adjacent pairs where
    one has twice as many. Channels have no order, so which ones go together means nothing.
    """
    channels = min(first.shape[1], second.shape[1])
    return _average_channels(first, channels), _average_channels(second, channels)


def _average_channels(x: Tensor, channels: int) -> Tensor:
    if x.shape[1] == channels:
        return x
    return (_cells(x.shape[1], channels, x) @ x.flatten(2)).unflatten(2, x.shape[2:])


def _average_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    # Not adaptive_avg_pool2d: on CUDA its backward adds in no fixed order, so bits would differ.
    (height, width), (h, w) = x.shape[2:], size
    if (height, width) == (h, w):
        return x
    if height % h == 0 and width % w == 0:
        return F.avg_pool2d(x, (height // h, width // w))
    return _cells(height, h, x) @ x @ _cells(width, w, x).T


def _cells(length: int, cells: int, like: Tensor) -> Tensor:
    """The matrix [cells, length] that averages; cell i is floor(i n / m) .. ceil((i + 1) n / m)."""
    cell = torch.arange(cells, device=like.device)[:, None]
    position = torch.arange(length, device=like.device)
    starts, stops = cell * length // cells, -(-(cell + 1) * length // cells)
    inside = ((starts <= position) & (position < stops)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class ConvRegressor(nn.Sequential):
    """A student's map in the shape of its teacher's: [B, C, H, W] -> [B, D, J, L], never negative.

    A convolution, batch norm and a ReLU, so the target should stand behind a ReLU. Without padding,
    the kernel is 1 + H - J by 1 + W - L, as FitNets have it (arXiv:1412.6550). Maps that are twice
    or half as large take a stride of two instead (3x3, and 4x4 transposed), as in RepDistiller,
    whence the batch norm, too.

    Raises:
        UserError: with both shapes, where the teacher's map is larger and not twice as large.
    """

    def __init__(self, context: LossContext, stage: str):
        student, teacher = context.student[stage], context.teacher_shapes[stage]
        convolution = _resizing_convolution(student, teacher)
        if convolution is None:
            raise UserError(
                f"a regressor can only halve a map, double it or crop its borders, but {stage} is "
                f"{_size(student)} in {context.student.model} and {_size(teacher)} in "
                f"{context.teacher_shapes.model}; use another stage"
            )
        super().__init__(convolution, nn.BatchNorm2d(teacher[0]), nn.ReLU())


def _resizing_convolution(
    student: tuple[int, ...], teacher: tuple[int, ...]
) -> nn.Conv2d | nn.ConvTranspose2d | None:
    (channels_in, height, width), (channels, h, w) = student, teacher
    if (height, width) == (2 * h, 2 * w):
        return nn.Conv2d(channels_in, channels, 3, stride=2, padding=1)
    if (2 * height, 2 * width) == (h, w):
        return nn.ConvTranspose2d(channels_in, channels, 4, stride=2, padding=1)
    if height >= h and width >= w:
        return nn.Conv2d(channels_in, channels, (1 + height - h, 1 + width - w))
    return None


class Connector(nn.Sequential):
    """A map with other channels: [B, channels_in, H, W] -> [B, channels, H, W], of either sign.

    A 1x1 convolution and batch norm, drawn as in the code of AB (arXiv:1811.03233) and OFD
    (arXiv:1904.01866): normal, with variance 2 / channels.
    """

    def __init__(self, channels_in: int, channels: int):
        convolution = nn.Conv2d(channels_in, channels, 1, bias=False)
        nn.init.normal_(convolution.weight, std=math.sqrt(2 / channels))
        super().__init__(convolution, nn.BatchNorm2d(channels))


class Embedding(nn.Sequential):
    """A feature of any shape in a space of its own: [B, *shape] -> [B, channels], linear."""

    def __init__(self, shape: Sequence[int], channels: int):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), channels))


class ProjectionHead(nn.Sequential):
    """A feature of any shape in a space for comparisons: [B, *shape] -> [B, n], n its numbers.

    Linear, ReLU, linear, as in SimCLR (arXiv:2002.05709) and SSKD (arXiv:2006.07114).
    """

    def __init__(self, shape: Sequence[int]):
        size = math.prod(shape)
        super().__init__(nn.Flatten(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))


class VectorBatchNorm(nn.BatchNorm1d):
    """Batch norm of vectors [B, C] that takes one image, too, by its running statistics.

    PyTorch refuses a batch of one, and the last batch of an epoch may be one.
    """

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            return super().forward(x)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
