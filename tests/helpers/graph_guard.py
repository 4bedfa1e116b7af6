"""Checks on the meta device, without a GPU, whether code could be captured in a CUDA graph.

Meta tensors have a shape but no values, so reading a value, or computing a shape that depends on
values, raises an error. This module also rejects what works on the meta device but not in a graph:
data from the host, operators that mix devices, and operators that synchronize internally.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kd_bench.data.dataset import Data
from kd_bench.data.source import Split
from kd_bench.training.setup import TrainingSetup

META = torch.device("meta")
# Factorizations report success to the host; substitution (linalg_solve_triangular) cannot fail.
SYNCHRONIZING = (
    "linalg_svd",
    "linalg_eigh",
    "linalg_eigvals",
    "linalg_inv",
    "linalg_solve_ex",
    "cholesky",
)


class NotCapturable(Exception):  # noqa: N818
    """Raised for code that a CUDA graph cannot capture."""


class _FromTheHost(TorchFunctionMode):
    """Rejects tensors created on the device from Python numbers: a synchronous copy."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        is_created = function in (torch.tensor, torch.as_tensor) and result.device == META
        if is_created and not isinstance(args[0], torch.Tensor):
            raise NotCapturable(f"{function.__name__}({args[0]!r}) copies from the host")
        return result


class _OneDevice(TorchDispatchMode):
    """Rejects operators that synchronize or mix devices, except for 0-d CPU tensors."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name
        if any(word in name for word in SYNCHRONIZING):
            raise NotCapturable(f"{name} synchronizes with the device")
        # In-place, safe in a graph, and not implemented on the meta device.
        is_fused = name in ("aten::_fused_sgd_", "aten::_fused_adamw_")
        result = None if is_fused else operator(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        devices = {x.device for x in tensors if x.device == META or x.dim() > 0 or "copy" in name}
        if len(devices) > 1:
            raise NotCapturable(f"{name} mixes {' and '.join(sorted(map(str, devices)))}")
        return result


@contextmanager
def guarded() -> Iterator[None]:
    """Raise NotCapturable for everything that a CUDA graph cannot capture, on the meta device."""
    with _FromTheHost(), _OneDevice():
        yield


def on_meta(job: TrainingSetup) -> TrainingSetup:
    """A job with all its tensors moved to the meta device."""
    for module in (job.student, job.method, job.teacher and job.teacher.network):
        if module is not None:
            module.to(META)
    return replace(job, data=_data_on_meta(job.data))


def _data_on_meta(data: Data) -> Data:
    def moved(split: Split | None) -> Split | None:
        return split and Split(split.image.to(META), split.target.to(META))

    splits = {name: moved(getattr(data, name)) for name in ("train", "test", "validation")}
    return replace(data, **splits, mean=data.mean.to(META), std=data.std.to(META))
