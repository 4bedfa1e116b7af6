"""Whether steps can be captured as CUDA graphs, as far as this can be tested without a GPU."""

import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from helpers import shipped
from helpers.graph_guard import META, NotCapturable, guarded, on_meta
from helpers.jobs import job, of_method, setup_of

from kd_bench.training import cuda_graph
from kd_bench.training.epoch import EpochRunner, StepKind
from kd_bench.training.setup import phases

pytestmark = pytest.mark.slow  # a training set up for each method

# For methods that need equal widths.
WIDTHS = ("model.net.widths=[8,8,8,8]", "teacher.model.net.widths=[8,8,8,8]")


def assembled(runs: Path, *overrides: str):
    return setup_of(job(runs, *WIDTHS, *overrides))


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("a value", lambda x: x.sum().item()),
        ("a branch on a value", lambda x: 1 if x.sum() > 0 else 0),
        ("a list", lambda x: x.tolist()),
        ("a shape that depends on values", lambda x: x[x > 0]),
        ("nonzero positions", lambda x: x.nonzero()),
        ("numbers from the host", lambda x: x + torch.tensor([1.0, 2.0], device=META)),
        ("a tensor on the host", lambda x: x.index_select(0, torch.tensor([1]))),
        ("a copy from the host", lambda x: x.copy_(torch.ones(2))),
        ("a factorisation", lambda x: torch.linalg.svd(x.view(1, 2))),
        ("a linear system", lambda x: torch.linalg.solve(torch.eye(2, device=META), x)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_guard_detects_operations_that_need_the_host(what, code):
    with pytest.raises((NotCapturable, RuntimeError, NotImplementedError)), guarded():
        code(torch.zeros(2, device=META))


@pytest.mark.parametrize("name", shipped.choices("method"))
def test_no_step_of_a_cuda_graph_safe_method_needs_the_host(runs, name):
    work = assembled(runs, *of_method(name))
    if not work.method.cuda_graph_safe:
        pytest.skip("not CUDA-graph-safe")
    meta = on_meta(work)
    for phase in phases(meta):
        epochs = EpochRunner(meta, phase)
        epochs._begin(epoch=1)
        for size in (16, 8):  # a full batch, and the last one of an epoch
            with guarded():
                epochs._step(StepKind(size))()


@pytest.mark.parametrize("name", shipped.choices("plugin"))
def test_no_step_with_a_plugin_needs_the_host(runs, name):
    meta = on_meta(assembled(runs, "method=dkd", f"plugin={name}"))
    (phase,) = phases(meta)
    epochs = EpochRunner(meta, phase)
    epochs._begin(epoch=1)
    for size in (16, 8):
        with guarded():
            epochs._step(StepKind(size))()


class Filler:
    """A function that holds the only reference to a tensor."""

    def __init__(self, out):
        self.out, self.own = out, torch.full_like(out, 3.0)

    def __call__(self):
        self.out.copy_(self.own)


def test_a_graph_keeps_the_captured_function_alive(monkeypatch):
    for name in ("Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())
    function = Filler(torch.zeros(4))
    kept = weakref.ref(function)
    replay = cuda_graph.capture_graph(function, [function.out])
    del function
    gc.collect()
    assert kept() is not None
    del replay
    gc.collect()
    assert kept() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_keeps_the_tensors_of_its_function_on_a_gpu():
    out = torch.zeros(2**22, device="cuda")
    replay = cuda_graph.capture_graph(Filler(out), [out])
    gc.collect()
    torch.cuda.empty_cache()
    others = [torch.zeros_like(out) for _ in range(8)]
    replay()
    assert (out == 3).all()
    assert not any(other.any() for other in others)


def warmed_up(function, state):
    """`cuda_graph.capture_graph` without the capture."""
    cuda_graph.warm_up(function, state)
    return function


@pytest.mark.parametrize("name", shipped.choices("method"))
def test_warm_up_steps_before_a_capture_have_no_effect(runs, name, monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture_graph", warmed_up)
    eager, captured_job = (assembled(runs, *of_method(name)) for _ in range(2))
    if not eager.method.cuda_graph_safe:
        pytest.skip("not CUDA-graph-safe")
    captured_job.execution = replace(captured_job.execution, captured=True)
    assert results_of(eager) == results_of(captured_job)


@pytest.mark.parametrize("name", shipped.choices("plugin"))
def test_warm_up_steps_with_a_plugin_have_no_effect(runs, name, monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture_graph", warmed_up)
    eager, captured_job = (assembled(runs, "method=dkd", f"plugin={name}") for _ in range(2))
    captured_job.execution = replace(captured_job.execution, captured=True)
    assert results_of(eager) == results_of(captured_job)


def results_of(work) -> list[dict[str, float]]:
    """The metrics of an epoch of every phase, and the sum of all weights afterwards."""
    rows = [EpochRunner(work, phase).run(1) for phase in phases(work)]
    weights = [p.sum().item() for module in work.learners.values() for p in module.parameters()]
    return [*rows, {"weights": sum(weights)}]
