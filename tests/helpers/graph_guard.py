"""Whether a CUDA graph could hold some code, found out without a GPU: on the meta device.

Tensors there have a shape and no values, so whoever asks for a value, or for a shape that depends
on values, gets an error. What is left to forbid is what works there and not in a graph: data from
the host, operators that mix devices, and those that wait for the device inside.
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
# Factorisations report their success to the host.
WAITING = ("linalg_svd", "linalg_eigh", "linalg_eigvals", "linalg_inv", "linalg_solve", "cholesky")


class NotCapturable(Exception):
    """A CUDA graph could not hold this."""


class _FromTheHost(TorchFunctionMode):
    """Refuses tensors on the device made of Python's numbers: a copy that is waited for."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made_here = function in (torch.tensor, torch.as_tensor) and result.device == META
        if made_here and not isinstance(args[0], torch.Tensor):
            raise NotCapturable(f"{function.__name__}({args[0]!r}) copies from the host")
        return result


class _OneDevice(TorchDispatchMode):
    """Refuses operators that mix devices, but for numbers in tensors of the CPU, and that wait."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name
        if any(word in name for word in WAITING):
            raise NotCapturable(f"{name} waits for the device")
        # In place, and not known on the meta device; made for graphs.
        result = None if name == "aten::_fused_sgd_" else operator(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        devices = {x.device for x in tensors if x.device == META or x.dim() > 0 or "copy" in name}
        if len(devices) > 1:
            raise NotCapturable(f"{name} mixes {' and '.join(sorted(map(str, devices)))}")
        return result


@contextmanager
def guarded() -> Iterator[None]:
    """Raise for whatever a CUDA graph could not hold, where tensors are on the meta device."""
    with _FromTheHost(), _OneDevice():
        yield


def on_meta(job: TrainingSetup) -> TrainingSetup:
    """A job with all its tensors on the meta device."""
    for module in (job.student, job.method, job.teacher and job.teacher.network):
        if module is not None:
            module.to(META)
    return replace(job, data=_data_on_meta(job.data))


def _data_on_meta(data: Data) -> Data:
    def moved(split: Split | None) -> Split | None:
        return split and Split(split.image.to(META), split.target.to(META))

    splits = {name: moved(getattr(data, name)) for name in ("train", "test", "validation")}
    return replace(data, **splits, mean=data.mean.to(META), std=data.std.to(META))
