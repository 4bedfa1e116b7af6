"""Measures the machine's limits: memory bandwidth, and the speed of convolutions alone.

python -m throughput.roofline reads a job as JSON from its standard input; see `measure_limits`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import throughput
from kd_bench.config.schema import Precision
from kd_bench.jobs.assemble import assemble_setup
from kd_bench.jobs.job import Job
from kd_bench.models.features import FeatureExtractor
from kd_bench.training import cuda_graph, execution
from kd_bench.training.device import choose_device, configure_process
from kd_bench.utils import process

REPEATS = 10
CAPTURED = 20  # runs in one CUDA graph
# Numbers that a training step reads and writes per output of a convolution, if everything between
# two convolutions is a single pass over memory. Student: forward, the convolution (2), statistics
# (1), normalisation (2); backward, batch norm's sums (2) and gradient (3), the two gradients of
# the convolution (4); half of the convolutions are followed by the addition of a shortcut (5 in
# total, 2.5 each). Teacher, with folded batch norm: input, output and half a shortcut. Data that
# stays in a large cache between two kernels never reaches memory, so small batches may move less.
STUDENT_TRAFFIC, TEACHER_TRAFFIC = 16.5, 3.0


def measure_limits(job: Job, processes: int = 1) -> dict[str, Any]:
    """Memory traffic and convolutions per image, and images/s with convolutions alone.

    Measured in processes set up like those of a job.

    Args:
        job: the job.
        processes: number of processes at once; their images per second are added up.
    """
    with ThreadPoolExecutor(processes) as pool:
        first, *others = pool.map(_limits_of_process, [job] * processes)
    for other in others:
        for name in ("convolutions_alone", "convolutions_alone_with_a_table"):
            for precision in first[name]:
                first[name][precision] += other[name][precision]
    return first


def _limits_of_process(job: Job) -> dict[str, Any]:
    environment = os.environ | process.job_environment(job.config.threads)
    done = subprocess.run(
        [sys.executable, "-m", "throughput.roofline"],
        env=throughput.environment(environment),
        input=json.dumps(job.to_json()),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _limits(job: Job) -> dict[str, Any]:
    configure_process(job.config.threads)
    device = choose_device(job.config.device)
    setup = assemble_setup(job, device)
    index = torch.arange(job.config.recipe.batch_size, device=device)
    image = setup.data.augmented_batch(index, setup.data.sample_views(index, 1, 0))
    teacher = None if setup.teacher is None else setup.teacher.network
    student_count = count_convolutions(setup.student, image[:1])
    teacher_outputs = count_convolutions(teacher, image[:1]).outputs if teacher else 0
    alone: dict[str, float] = {}
    alone_with_a_table: dict[str, float] = {}
    for precision in Precision if device.type == "cuda" else (Precision.fp32, Precision.bf16):
        with execution.tf32(precision is Precision.tf32):
            student_seconds = seconds_of_convolutions(
                setup.student, image, precision, backward=True
            )
            teacher_seconds = 0.0
            if teacher is not None:
                teacher_seconds = seconds_of_convolutions(teacher, image, precision, backward=False)
        alone[precision.value] = len(image) / (student_seconds + teacher_seconds)
        alone_with_a_table[precision.value] = len(image) / student_seconds
    student_traffic = STUDENT_TRAFFIC * student_count.outputs
    return {
        "numbers_moved_per_image": student_traffic + TEACHER_TRAFFIC * teacher_outputs,
        "numbers_moved_per_image_with_a_table": student_traffic,
        "student_flop_per_image": 3 * student_count.operations,
        "convolutions_alone": alone,
        "convolutions_alone_with_a_table": alone_with_a_table,
    }


@dataclass(frozen=True)
class ConvolutionCount:
    """The convolutions of a forward pass on one image."""

    outputs: int  # numbers in their outputs
    operations: int  # multiplications and additions


def count_convolutions(net: FeatureExtractor, image: Tensor) -> ConvolutionCount:
    """Count the convolutions of a forward pass on images [B, 3, H, W]."""
    outputs = operations = 0
    for module, given in convolution_inputs(net, image):
        numbers = module(given)[0].numel()
        outputs += numbers
        operations += 2 * numbers * module.weight[0].numel()
    return ConvolutionCount(outputs, operations)


def convolution_inputs(net: FeatureExtractor, image: Tensor) -> list[tuple[nn.Conv2d, Tensor]]:
    """All convolutions of a forward pass, with their inputs."""
    inputs: list[tuple[nn.Conv2d, Tensor]] = []

    def remember(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d):
            inputs.append((module, given[0]))

    handles = [module.register_forward_pre_hook(remember) for module in net.modules()]
    with torch.no_grad():
        net(image)
    for handle in handles:
        handle.remove()
    return inputs


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, when copying more memory than fits into a cache."""
    count = 2**28 if device.type == "cuda" else 2**26
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * count / seconds_of(lambda: target.copy_(source), device)


def seconds_of_convolutions(
    net: FeatureExtractor, image: Tensor, precision: Precision, *, backward: bool
) -> float:
    """Seconds of a network's convolutions alone, on a batch of images [B, 3, H, W].

    Args:
        net: the network.
        image: the batch.
        precision: of the convolutions.
        backward: include the backward pass.
    """
    dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float32
    by_shape: dict[tuple, list[tuple[nn.Conv2d, Tensor]]] = {}
    for module, given in convolution_inputs(net, image):
        by_shape.setdefault((given.shape, module.weight.shape, module.stride), []).append(
            (module, given)
        )
    make = _both_passes if backward else _forward_pass
    return sum(
        len(same) * seconds_of(make(*same[0], dtype), image.device) for same in by_shape.values()
    )


def _both_passes(module: nn.Conv2d, given: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    # The first convolution does not need the gradient of its input, the images.
    given = given.detach().to(dtype).requires_grad_(given.shape[1] > 3)
    weight = module.weight.detach().to(dtype).requires_grad_()
    forward = _forward_pass(module, given, dtype, weight)
    gradient = torch.ones_like(forward())
    inputs = [tensor for tensor in (given, weight) if tensor.requires_grad]
    return lambda: torch.autograd.grad(forward(), inputs, gradient)


def _forward_pass(
    module: nn.Conv2d, given: Tensor, dtype: torch.dtype, weight: Tensor | None = None
) -> Callable[[], Tensor]:
    given = given.to(dtype)
    weight = module.weight.detach().to(dtype) if weight is None else weight
    # Any, because the stubs do not accept a padding that is either a string or numbers.
    options: tuple[Any, ...] = (module.stride, module.padding, module.dilation, module.groups)
    return lambda: nn.functional.conv2d(given, weight, None, *options)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """The shortest time of a few runs after a warm-up run, as an upper limit of the speed.

    On a GPU, many calls are captured in one graph, so that launch overhead is not measured.
    """
    if device.type != "cuda":
        return _least_seconds(function)

    def call_repeatedly() -> None:
        for _ in range(CAPTURED):
            function()

    replay = cuda_graph.capture_graph(call_repeatedly, ())

    def replay_and_wait() -> None:
        replay()
        torch.cuda.synchronize(device)

    return _least_seconds(replay_and_wait) / CAPTURED


def _least_seconds(function: Callable[[], object]) -> float:
    def timed() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    timed()
    return min(timed() for _ in range(REPEATS))


if __name__ == "__main__":
    print(json.dumps(_limits(Job.from_json(json.load(sys.stdin)))))
