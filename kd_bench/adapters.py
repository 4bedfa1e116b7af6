"""Bridges between two stage shapes: the only place where sizes are matched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Spec, require


def map_stages(spec: Spec, stages: Sequence[str]) -> tuple[str, ...]:
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
        for network in (spec.student, spec.teacher):
            require(
                len(network[stage]) == 3,
                f"stage '{stage}' of {network.model} is no map [C, H, W]; its shape is "
                f"{_size(network[stage])}",
            )
    return tuple(stages)


def require_equal_channels(spec: Spec, stage: str, method: str) -> None:
    """Have it that both networks have as many channels at `stage`, as `method` needs.

    Raises:
        UserError: with both shapes, where they have not.
    """
    student, teacher = spec.student[stage], spec.teacher[stage]
    require(
        student[0] == teacher[0],
        f"{method} needs equal channels, but {stage} is {_size(student)} in {spec.student.model} "
        f"and {_size(teacher)} in {spec.teacher.model}; take a pair of equal widths",
    )


def to_common_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and width: [B, C, H, W], [B, D, J, L] -> same H and W.

    The larger map is averaged over the cells that PyTorch's adaptive average pooling has.
    """
    size = tuple(min(s, t) for s, t in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return _average_pool(student, size), _average_pool(teacher, size)


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


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
