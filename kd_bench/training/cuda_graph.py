"""A function on a GPU, recorded once as a CUDA graph and replayed: one launch for all its kernels.

What is recorded are kernels and addresses. A function that can be recorded reads and writes the
same tensors each time, and nothing in it waits for the device or depends on a value there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

# Before recording: libraries choose algorithms and allocate, which a graph cannot hold.
WARM_UPS = 3
Result = TypeVar("Result")


@contextmanager
def restore_after(state: Iterable[Tensor]) -> Iterator[None]:
    """Undo, in place, what is done to these tensors and to the random generators.

    Not after an exception, which ends a job anyway.
    """
    state = list(state)
    saved = [tensor.detach().clone() for tensor in state]
    gpus = sorted({tensor.device.index for tensor in state if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices=gpus):
        yield
    with torch.no_grad():
        for tensor, before in zip(state, saved, strict=True):
            tensor.copy_(before)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's collector: what it frees on a GPU while one records ends the recording."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def warm_up(function: Callable[[], object], state: Iterable[Tensor]) -> None:
    """Run a function a few times, each from the same state: it may stand at the end of an epoch."""
    state = list(state)
    for _ in range(WARM_UPS):
        with restore_after(state):
            function()


def capture_graph(function: Callable[[], Result], state: Iterable[Tensor]) -> Callable[[], Result]:
    """Record a function that works on the current GPU.

    Args:
        function: what to record; it runs a few times before, to warm up.
        state: every tensor that it changes; recording leaves them and the random generators alone.

    Returns:
        Replays the recording. What it returns are the same tensors each time, with new values.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm_up(function, state)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with _uncollected(), torch.cuda.graph(graph, stream=stream):
        result = function()

    def replay() -> Result:
        graph.replay()
        return result

    return replay
