"""That a step could be held by a CUDA graph, as far as this can be told without a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import shipped
from helpers.graph_guard import META, NotCapturable, guarded, on_meta
from helpers.jobs import job, trained

from kd_bench.jobs import assemble, resolve
from kd_bench.training import cuda_graph
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import phases

pytestmark = pytest.mark.slow  # a training set up for each method

# For the methods that need equal widths.
WIDTHS = ("model.net.widths=[8,8,8,8]", "teacher.model.net.widths=[8,8,8,8]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def assembled(runs: Path, *overrides: str):
    config = job(runs, *WIDTHS, *overrides)
    if (teacher := resolve.teacher_job(config)) is not None:
        trained(teacher)
    return assemble.assemble_setup(config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("a value", lambda x: x.sum().item()),
        ("a branch on a value", lambda x: 1 if x.sum() > 0 else 0),
        ("a list", lambda x: x.tolist()),
        ("a number of hits", lambda x: x[x > 0]),
        ("places", lambda x: x.nonzero()),
        ("numbers of the host", lambda x: x + torch.tensor([1.0, 2.0], device=META)),
        ("a tensor of the host", lambda x: x.index_select(0, torch.tensor([1]))),
        ("a copy from the host", lambda x: x.copy_(torch.ones(2))),
        ("a factorisation", lambda x: torch.linalg.svd(x.view(1, 2))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_guard_notices(what, code):
    with pytest.raises((NotCapturable, RuntimeError, NotImplementedError)), guarded():
        code(torch.zeros(2, device=META))


@pytest.mark.parametrize("name", shipped.choices("method"))
def test_no_step_of_a_method_that_says_so_needs_the_host(runs, name):
    work = assembled(runs, f"method={name}")
    if not work.method.cuda_graph_safe:
        pytest.skip("says that it cannot be captured")
    meta = on_meta(work)
    for phase in phases(meta):
        epochs = EpochRunner(meta, phase)
        epochs._begin(epoch=1)
        for size in (16, 8):  # a whole batch, and the epoch's last
            with guarded():
                epochs._step(size)()


def warmed_up(function, state):
    """As `cuda_graph.record`, but for the recording: all that runs before it."""
    cuda_graph.warm_up(function, state)
    return function


@pytest.mark.parametrize("name", shipped.choices("method"))
def test_the_steps_before_a_recording_leave_no_trace(runs, name, monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture_graph", warmed_up)
    eager, recorded = (assembled(runs, f"method={name}") for _ in range(2))
    if not eager.method.cuda_graph_safe:
        pytest.skip("says that it cannot be captured")
    recorded.execution = replace(recorded.execution, captured=True)
    assert learnt(eager) == learnt(recorded)


def learnt(work) -> list[dict[str, float]]:
    """What an epoch of every stage of training reports, and where it leads."""
    rows = [EpochRunner(work, phase).run(1) for phase in phases(work)]
    weights = [p.sum().item() for module in work.learners.values() for p in module.parameters()]
    return [*rows, {"weights": sum(weights)}]
