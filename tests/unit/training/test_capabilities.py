"""Losses with special capabilities in real jobs: gradients, extra views, networks."""

import copy
from pathlib import Path

import pytest
import torch
from helpers.images import augmented
from helpers.jobs import config, setup_of, train

from kd_bench.jobs.resolve import resolve_job
from kd_bench.training.setup import TrainingSetup

CAPABILITIES = ["sobolev", "at_gradient", "lwm", "bss", "sskd"]


def assembled(runs: Path, *methods: str) -> TrainingSetup:
    """A job that combines the losses of these methods, ready to train."""
    first, *others = (copy.deepcopy(config(runs, f"method={method}")) for method in methods)
    for other in others:
        first.method.losses |= other.method.losses
        first.method.weights |= other.method.weights
    return setup_of(resolve_job(first, {}))


def state(work: TrainingSetup) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in work.teacher.network.net.state_dict().values()]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["st", "st_at", *CAPABILITIES])
def test_training_does_not_change_the_teacher(runs, tmp_path, method):
    work = assembled(runs, method)
    before = state(work)
    train(work, tmp_path)
    assert all(map(torch.equal, before, state(work)))
    assert all(p.grad is None for p in work.teacher.network.net.parameters())
    assert not work.teacher.network.training


def test_a_teacher_in_train_mode_would_change(runs):
    work = assembled(runs, "st")
    before = state(work)
    work.teacher.network.train()
    work.teacher(augmented(work.data, torch.arange(8), 1, 0))
    assert not all(map(torch.equal, before, state(work)))


@pytest.mark.slow
def test_several_losses_differentiate_the_same_networks(runs, tmp_path):
    work = assembled(runs, "sobolev", "at_gradient", "lwm", "bss", "st")
    (first, second) = train(work, tmp_path).history
    terms = {"ce", "sobolev", "at_gradient", "lwm", "bss/clean", "bss/boundary", "st"}
    assert terms <= first.keys()
    assert all(second[term] == second[term] for term in terms)  # not NaN


@pytest.mark.slow
def test_gradient_losses_work_together_with_extra_views(runs, tmp_path):
    work = assembled(runs, "sskd", "sobolev", "bss")
    history = train(work, tmp_path).history
    assert [row["stage"] for row in history] == ["init", "main", "main"]
    assert {"sskd/turned", "sobolev", "bss/boundary"} <= history[-1].keys()


def test_only_methods_that_need_it_build_the_teachers_autograd_graph(runs):
    for method, has_graph in (("st", False), ("sobolev", True)):
        work = assembled(runs, method)
        image = torch.zeros(2, 3, 8, 8, requires_grad=True)
        assert work.teacher(image).logits.requires_grad == has_graph
