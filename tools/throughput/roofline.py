"""What the machine can do at most, measured: copying memory, and nothing but convolutions.

python -m throughput.roofline, with a job as JSON on its standard input: see `measured`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import throughput
from kd_bench.config.schema import Precision
from kd_bench.jobs import assemble
from kd_bench.models.features import FeatureExtractor
from kd_bench.training import cuda_graph, execution
from kd_bench.training.device import choose_device, prepare_torch
from kd_bench.utils import process

REPEATS = 10
RECORDED = 20
# Numbers that a training step reads and writes for every number that a convolution gives, where
# all that stands between two convolutions is one pass: forward, the convolution (2), statistics
# (1), normalising (2); backward, batch norm's sums (2) and gradient (3), the convolution's two
# gradients (4); half of the convolutions stand before a sum with a shortcut (5 together). Of a
# teacher, with its batch norm folded: input, output, and half a shortcut. What a large cache holds
# between two kernels never reaches the memory, so small batches may move less.
LEARNING, ASKED = 16.5, 3.0


def measured(config: Mapping[str, Any], jobs: int = 1) -> dict[str, Any]:
    """Traffic and convolutions of an image, and images per second that convolutions alone allow.

    In processes of their own, which have what a job's process has.

    Args:
        config: a job.
        jobs: that many at once, their images per second together.
    """
    with ThreadPoolExecutor(jobs) as pool:
        first, *others = pool.map(_in_a_process, [config] * jobs)
    for other in others:
        for name in ("convolutions_alone", "convolutions_alone_with_a_table"):
            for precision in first[name]:
                first[name][precision] += other[name][precision]
    return first


def _in_a_process(config: Mapping[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "throughput.roofline"],
        env=throughput.environment(os.environ | process.job_environment(config["threads"])),
        input=json.dumps(config),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _measure(config: Mapping[str, Any]) -> dict[str, Any]:
    prepare_torch(config["threads"])
    device = choose_device(config["device"])
    job = assemble.assemble_setup(config, device)
    image = job.data.augment(torch.arange(config["recipe"]["batch_size"], device=device), 1, 0)
    asked = work(job.teacher.network, image[:1]).outputs if job.teacher else 0
    student = work(job.student, image[:1])
    alone: dict[str, float] = {}
    alone_with_a_table: dict[str, float] = {}
    for precision in Precision if device.type == "cuda" else (Precision.fp32, Precision.bf16):
        with execution.tf32(precision is Precision.tf32):
            learning = seconds_of_convolutions(job.student, image, precision, learns=True)
            asking = 0.0
            if job.teacher:
                asking = seconds_of_convolutions(
                    job.teacher.network, image, precision, learns=False
                )
        alone[precision.value] = len(image) / (learning + asking)
        alone_with_a_table[precision.value] = len(image) / learning
    return {
        "numbers_moved_per_image": LEARNING * student.outputs + ASKED * asked,
        "numbers_moved_per_image_with_a_table": LEARNING * student.outputs,
        "student_flop_per_image": 3 * student.operations,
        "convolutions_alone": alone,
        "convolutions_alone_with_a_table": alone_with_a_table,
    }


@dataclass(frozen=True)
class Work:
    """What one image costs a network."""

    outputs: int  # numbers that convolutions give, forward
    operations: int  # multiplications and additions of convolutions, forward


def work(net: FeatureExtractor, image: Tensor) -> Work:
    """Count the convolutions of a forward pass on images [B, 3, H, W]."""
    outputs = operations = 0
    for module, given in convolutions(net, image):
        made = module(given)[0].numel()
        outputs += made
        operations += 2 * made * module.weight[0].numel()
    return Work(outputs, operations)


def convolutions(net: FeatureExtractor, image: Tensor) -> list[tuple[nn.Conv2d, Tensor]]:
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


def seconds_of_convolutions(
    net: FeatureExtractor, image: Tensor, precision: Precision, *, learns: bool
) -> float:
    """Of a network's convolutions and nothing else, on a batch of images [B, 3, H, W].

    Args:
        learns: with the backward pass.
    """
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    by_shape: dict[tuple, list[tuple[nn.Conv2d, Tensor]]] = {}
    for module, given in convolutions(net, image):
        by_shape.setdefault((given.shape, module.weight.shape, module.stride), []).append(
            (module, given)
        )
    one = _both_passes if learns else _forward_pass
    return sum(
        len(same) * seconds_of(one(*same[0], dtype), image.device) for same in by_shape.values()
    )


def _both_passes(module: nn.Conv2d, given: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    given = given.detach().to(dtype).requires_grad_(given.shape[1] > 3)  # the first needs none
    weight = module.weight.detach().to(dtype).requires_grad_()
    forward = _forward_pass(module, given, dtype, weight)
    gradient = torch.ones_like(forward())
    learning = [tensor for tensor in (given, weight) if tensor.requires_grad]
    return lambda: torch.autograd.grad(forward(), learning, gradient)


def _forward_pass(
    module: nn.Conv2d, given: Tensor, dtype: torch.dtype, weight: Tensor | None = None
) -> Callable[[], Tensor]:
    given = given.to(dtype)
    weight = module.weight.detach().to(dtype) if weight is None else weight
    options = (None, module.stride, module.padding, module.dilation, module.groups)
    return lambda: nn.functional.conv2d(given, weight, *options)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """The least of a few runs, since a limit is asked for, after one that does not count.

    On a GPU a run is many, recorded as one graph: else launching would be what is measured.
    """
    if device.type != "cuda":
        return _least_seconds(function)

    def many() -> None:
        for _ in range(RECORDED):
            function()

    replay = cuda_graph.capture_graph(many, ())

    def waited_for() -> None:
        replay()
        torch.cuda.synchronize(device)

    return _least_seconds(waited_for) / RECORDED


def _least_seconds(function: Callable[[], object]) -> float:
    def timed() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    timed()
    return min(timed() for _ in range(REPEATS))


if __name__ == "__main__":
    print(json.dumps(_measure(json.load(sys.stdin))))
