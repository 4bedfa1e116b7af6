"""CUDA graphs: captures a function once and replays all its kernels with a single launch.

A graph stores kernels and memory addresses. A function can be captured if it reads and writes the
same tensors each time, does not synchronize with the device, and branches on no value there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

# Libraries choose algorithms and allocate memory in their first calls, which cannot be captured.
WARM_UPS = 3
Result = TypeVar("Result")


@contextmanager
def restore_after(state: Iterable[Tensor]) -> Iterator[None]:
    """Restore these tensors, in place, and the random number generators on exit.

    Tensors are not restored after an exception, which ends the job anyway.
    """
    state = list(state)
    saved = [tensor.detach().clone() for tensor in state]
    gpus = sorted({tensor.device.index for tensor in state if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices=gpus):
        yield
    with torch.no_grad():
        for tensor, value in zip(state, saved, strict=True):
            tensor.copy_(value)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: freeing GPU memory during a capture would invalidate it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def warm_up(function: Callable[[], object], state: Iterable[Tensor]) -> None:
    """Run a function several times from the current state, which may be that at an epoch's end."""
    state = list(state)
    for _ in range(WARM_UPS):
        with restore_after(state):
            function()


@dataclass(frozen=True)
class _Replay(Generic[Result]):
    """A captured function; calling it replays the graph."""

    graph: torch.cuda.CUDAGraph
    result: Result
    captured: Callable[[], Result]

    def __call__(self) -> Result:
        self.graph.replay()
        return self.result


def capture_graph(function: Callable[[], Result], state: Iterable[Tensor]) -> Callable[[], Result]:
    """Capture a function that runs on the current GPU.

    Args:
        function: the function to capture, after several warm-up runs.
        state: every tensor that it modifies; these and the random number generators are restored.

    Returns:
        A function that replays the graph. It returns the same tensors each time, with new values.
        It keeps a reference to `function`, because the graph reads tensors that `function` owns
        (such as a rewritten teacher's weights) by address; once freed, that memory would be
        unmapped or reused.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm_up(function, state)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with _no_garbage_collection(), torch.cuda.graph(graph, stream=stream):
        result = function()

    return _Replay(graph, result, function)
