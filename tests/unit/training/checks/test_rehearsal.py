"""The rehearsal of the first step: all shipped methods pass, and losses that need large batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.jobs import job, of_method
from helpers.shipped import choices

from kd_bench.interfaces import Batch, Loss, Output, UserError
from kd_bench.jobs import validate
from kd_bench.methods.common.method import Method
from kd_bench.training.checks import rehearsal
from kd_bench.training.checks.rehearsal import Rehearsal

SAME_WIDTHS = ("teacher.model.net.widths=[8,8,16,16]",)


def of_job(folder, *overrides: str) -> Rehearsal:
    """The rehearsal of a tiny job."""
    own = job(folder, *overrides)
    context, _, _ = validate._meta_parts(own)
    return validate._rehearsal(own, context)


@pytest.fixture
def here(monkeypatch):
    """Rehearse in this process, so that no error is lost."""

    def run(function, seconds):
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        try:
            return function()
        finally:
            torch.set_rng_state(state)
            torch.set_num_threads(threads)

    monkeypatch.setattr(rehearsal, "run_isolated", run)


CUT = {"fcfd"}  # runs the layers after a stage, which a stand-in lacks


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in choices("method") if name not in CUT])
def test_every_shipped_method_passes(here, tmp_path, name):
    model = ("teacher.model.net.depth=8", "teacher.model.name=resnet8_half")
    of_job(tmp_path, *of_method(name), *SAME_WIDTHS, *model).check()


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("plugin"))
def test_every_shipped_plugin_passes(here, tmp_path, name):
    of_job(tmp_path, "method=dkd", f"plugin={name}").check()


class Greedy(Loss):
    """Needs more images than the rehearsal tries first."""

    def forward(self, student: Output, teacher: Output, batch: Batch) -> torch.Tensor:
        return student.logits.amax(1).topk(10).values.mean()


class Elsewhere(Loss):
    """Runs only on one kind of device."""

    def forward(self, student: Output, teacher: Output, batch: Batch) -> torch.Tensor:
        raise RuntimeError("Found no NVIDIA driver on your system")


class InPlace(Loss):
    """Fails in the backward pass, outside the lines of the loss."""

    def forward(self, student: Output, teacher: Output, batch: Batch) -> torch.Tensor:
        exponential = student.logits.exp()
        value = exponential.mean()
        exponential.zero_()
        return value


def with_loss(folder, loss: type[Loss]) -> Rehearsal:
    """The rehearsal of a tiny job with this loss."""

    def make(context):
        return Method({"mine": loss(context)}, {"ce": 1.0, "mine": 1.0})

    return replace(of_job(folder, "method=st"), make_method=make)


def test_a_loss_may_need_a_full_batch(here, tmp_path):
    with_loss(tmp_path, Greedy).check()


def test_a_loss_for_another_device_passes(here, tmp_path):
    with_loss(tmp_path, Elsewhere).check()


def test_a_step_that_fails_outside_the_loss_is_reported_in_one_line(here, tmp_path):
    with pytest.raises(UserError, match=r"^the first training step fails: Runtime.* inplace"):
        with_loss(tmp_path, InPlace).check()
