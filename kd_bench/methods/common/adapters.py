"""Adapters between the feature shapes of student and teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import LossContext, UserError, require


def map_stages(context: LossContext, stages: Sequence[str]) -> tuple[str, ...]:
    """Check that the stages are feature maps [C, H, W] in both networks, and return them.

    Raises:
        UserError: if the list is empty, a network lacks a stage, or a stage is not a feature map.
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
                f"stage '{stage}' of {network.model} is not a map [C, H, W] but"
                f" {_size(network[stage])}; {_how_to_get_maps(context)}",
            )
    return tuple(stages)


def _how_to_get_maps(context: LossContext) -> str:
    student, teacher = (
        {stage for stage, shape in network.items() if len(shape) == 3}
        for network in (context.student, context.teacher_shapes)
    )
    both = sorted(student & teacher)
    choice = f"choose from {', '.join(both)}" if both else "no stage is a map in both networks"
    return (
        f"{choice}. To use tokens [N, C] of HxW patches as a map, write the path of the stage as"
        " PATH:map=HxW; for maps [H, W, C], as PATH:map"
    )


def require_equal_channels(context: LossContext, stage: str, method: str) -> None:
    """Check that both networks have the same number of channels at `stage`, which `method` needs.

    Raises:
        UserError: if they differ; names both shapes.
    """
    student, teacher = context.student[stage], context.teacher_shapes[stage]
    require(
        student[0] == teacher[0],
        f"{method} needs equal channels, but {stage} is {_size(student)} in "
        f"{context.student.model} and {_size(teacher)} in {context.teacher_shapes.model}; "
        "choose two models of equal width",
    )


def classified_map(context: LossContext, stage: str, method: str) -> tuple[str]:
    """Check that both classifiers read the average of this map over positions; return the stage.

    Only shapes are checked. `method` needs this map to classify parts of an image.

    Raises:
        UserError: if the stage is not a map, its channels differ from those at `pooled`, or
            `pooled` is not the classifier's input.
    """
    map_stages(context, [stage])
    for shapes in (context.student, context.teacher_shapes):
        channels, pooled = shapes[stage][0], shapes["pooled"]
        require(
            pooled == (channels,),
            f"{method} needs the map whose average is classified, but {shapes.model} has "
            f"{channels} channels at {stage} and {_size(pooled)} at pooled",
        )
        shapes.classifier  # noqa: B018  # raises UserError if `pooled` is not its input
    return (stage,)


def to_common_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Pool maps to the smaller height and width: [B, C, H, W], [B, D, J, L] -> same H and W.

    The larger map is averaged over the cells of PyTorch's adaptive average pooling.
    """
    height, width = (min(s, t) for s, t in zip(student.shape[2:], teacher.shape[2:], strict=True))
    size = height, width
    return average_pool(student, size), average_pool(teacher, size)


def to_common_channels(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average channels to the smaller count: [B, C, H, W], [B, D, J, L] -> same channel count.

    The channels of the wider map are averaged over the cells of adaptive pooling: adjacent pairs if
    it has twice as many. Channels have no order, so the grouping is arbitrary.
    """
    channels = min(first.shape[1], second.shape[1])
    return _average_channels(first, channels), _average_channels(second, channels)


def _average_channels(x: Tensor, channels: int) -> Tensor:
    if x.shape[1] == channels:
        return x
    return (_cells(x.shape[1], channels, x) @ x.flatten(2)).unflatten(2, x.shape[2:])


def average_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling: [B, C, H, W] -> [B, C, h, w]."""
    # Not adaptive_avg_pool2d, because its backward pass on CUDA is nondeterministic.
    (height, width), (h, w) = x.shape[2:], size
    if (height, width) == (h, w):
        return x
    if height % h == 0 and width % w == 0:
        return F.avg_pool2d(x, (height // h, width // w))
    return _cells(height, h, x) @ x @ _cells(width, w, x).T


def _cells(length: int, cells: int, like: Tensor) -> Tensor:
    """The averaging matrix [cells, length]; cell i is floor(i n / m) .. ceil((i + 1) n / m)."""
    cell = torch.arange(cells, device=like.device)[:, None]
    position = torch.arange(length, device=like.device)
    starts, stops = cell * length // cells, -(-(cell + 1) * length // cells)
    inside = ((starts <= position) & (position < stops)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class ConvRegressor(nn.Sequential):
    """Maps student features to the teacher's shape: [B, C, H, W] -> [B, D, J, L], nonnegative.

    A convolution, batch norm and a ReLU, so the target should be taken after a ReLU. The
    convolution is unpadded, with a kernel of 1 + H - J by 1 + W - L, as in FitNets
    (arXiv:1412.6550). If one map is twice as large as the other, a stride of two is used instead
    (3x3, or 4x4 transposed). This case and the batch norm are from RepDistiller.

    Raises:
        UserError: if the teacher's map is larger but not twice as large; names both shapes.
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
    """Changes a map's channels: [B, channels_in, H, W] -> [B, channels, H, W]; values of any sign.

    A 1x1 convolution and batch norm, initialized as in the code of AB (arXiv:1811.03233) and OFD
    (arXiv:1904.01866): normal, with variance 2 / channels.
    """

    def __init__(self, channels_in: int, channels: int):
        convolution = nn.Conv2d(channels_in, channels, 1, bias=False)
        nn.init.normal_(convolution.weight, std=math.sqrt(2 / channels))
        super().__init__(convolution, nn.BatchNorm2d(channels))


class Embedding(nn.Sequential):
    """Linear embedding of features of any shape: [B, *shape] -> [B, channels]."""

    def __init__(self, shape: Sequence[int], channels: int):
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), channels))


class ProjectionHead(nn.Sequential):
    """Projection head for features of any shape: [B, *shape] -> [B, n], n the feature's size.

    Linear, ReLU, linear, as in SimCLR (arXiv:2002.05709) and SSKD (arXiv:2006.07114).
    """

    def __init__(self, shape: Sequence[int]):
        size = math.prod(shape)
        super().__init__(nn.Flatten(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))


class VectorBatchNorm(nn.BatchNorm1d):
    """Batch norm of vectors [B, C] that uses its running statistics for a batch of one.

    PyTorch raises an error for such a batch, which can be the last one of an epoch.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if _has_statistics(x) else _by_running_statistics(self, x)


class MapBatchNorm(nn.BatchNorm2d):
    """Batch norm of maps [B, C, H, W] that uses its running statistics for a single 1x1 map.

    See `VectorBatchNorm`.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if _has_statistics(x) else _by_running_statistics(self, x)


def _has_statistics(x: Tensor) -> bool:
    """Whether there are at least two values per channel."""
    return x.numel() > x.shape[1]


def _by_running_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var = norm.running_mean, norm.running_var
    return F.batch_norm(x, mean, var, norm.weight, norm.bias, eps=norm.eps)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
