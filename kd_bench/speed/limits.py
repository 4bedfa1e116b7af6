"""What the machine can do at most, measured: copying memory, and nothing but convolutions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from kd_bench.schema import Precision
from kd_bench.taps import Tapped

REPEATS = 5
# Numbers that a training step reads and writes for every number that a convolution gives, where
# all that stands between two convolutions is one pass: forward, the convolution (2), statistics
# (1), normalising (2); backward, batch norm's sums (2) and gradient (3), the convolution's two
# gradients (4); half of the convolutions stand before a sum with a shortcut (5 together). Of a
# teacher, with its batch norm folded: input, output, and half a shortcut.
LEARNING, ASKED = 16.5, 3.0


@dataclass(frozen=True)
class Work:
    """What one image costs a network."""

    outputs: int  # numbers that convolutions give, forward
    operations: int  # multiplications and additions of convolutions, forward


def work(net: Tapped, image: Tensor) -> Work:
    """Count the convolutions of a forward pass on images [B, 3, H, W]."""
    outputs = operations = 0
    for module, given in convolutions(net, image):
        made = module(given)[0].numel()
        outputs += made
        operations += 2 * made * module.weight[0].numel()
    return Work(outputs, operations)


def convolutions(net: Tapped, image: Tensor) -> list[tuple[nn.Conv2d, Tensor]]:
    """Every convolution of a forward pass, with what goes into it."""
    found: list[tuple[nn.Conv2d, Tensor]] = []
    handles = [
        module.register_forward_pre_hook(lambda module, given: found.append((module, given[0])))
        for module in net.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        net(image)
    for handle in handles:
        handle.remove()
    return found


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of copying memory that no cache holds."""
    count = 2**28 if device.type == "cuda" else 2**26
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * count / seconds_of(lambda: target.copy_(source), device)


def convolution_limit(net: Tapped, image: Tensor, precision: Precision) -> float:
    """Images per second if a training step were the network's convolutions and nothing else."""
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    by_shape: dict[tuple, list[tuple[nn.Conv2d, Tensor]]] = {}
    for module, given in convolutions(net, image):
        by_shape.setdefault((given.shape, module.weight.shape, module.stride), []).append(
            (module, given)
        )
    seconds = sum(len(same) * _learning_seconds(*same[0], dtype) for same in by_shape.values())
    return len(image) / seconds


def _learning_seconds(module: nn.Conv2d, given: Tensor, dtype: torch.dtype) -> float:
    """Of a convolution's forward and backward pass."""
    given = given.detach().to(dtype).requires_grad_(given.shape[1] > 3)  # the first needs none
    weight = module.weight.detach().to(dtype).requires_grad_()
    options = (None, module.stride, module.padding, module.dilation, module.groups)
    gradient = torch.ones_like(nn.functional.conv2d(given, weight, *options))

    def pass_both() -> None:
        nn.functional.conv2d(given, weight, *options).backward(gradient)

    return seconds_of(pass_both, given.device)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """The median over a few runs, each of which is waited for, after one that does not count."""

    def timed() -> float:
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    timed()
    return median(timed() for _ in range(REPEATS))
