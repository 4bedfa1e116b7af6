"""Plugins in training: their parameters learn, resume to equal bits, and are finite in bf16."""

import math

import pytest
import torch
from helpers.jobs import job, setup_of, trained
from helpers.resuming import has_equal_bits, interrupt
from helpers.shipped import choices

from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import phases

PLUGINS = choices("plugin")


@pytest.mark.slow
@pytest.mark.parametrize("plugins", ["ctkd", "ctkd_instance", "tekap", "[ea,ctkd_instance,tekap]"])
def test_an_interrupted_job_resumes_to_equal_bits(runs, other_runs, plugins):
    typed = ("method=dkd", f"plugin={plugins}")
    _, whole = trained(job(runs, *typed))
    the_job = job(other_runs, *typed)
    interrupt(the_job)
    _, parts = trained(the_job)
    assert has_equal_bits(parts, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ctkd", "ctkd_instance"])
def test_the_parameters_of_a_plugin_are_trained_and_in_the_checkpoint(runs, name):
    work = setup_of(job(runs, "method=st", f"plugin={name}"))
    (plugin,) = work.method.plugins.by_name.values()
    before = [parameter.detach().clone() for parameter in plugin.parameters()]
    (phase,) = phases(work)
    EpochRunner(work, phase).run(1)
    for old, new in zip(before, plugin.parameters(), strict=True):
        assert not torch.equal(old, new)
    saved = work.learners["method"].state_dict()
    assert len(saved) == len(before)
    assert all(key.startswith(f"plugins.by_name.{name}.") for key in saved)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLUGINS)
def test_an_epoch_in_bf16_is_finite(runs, name):
    work = setup_of(job(runs, "method=dkd", f"plugin={name}", "precision=bf16"))
    (phase,) = phases(work)
    row = EpochRunner(work, phase).run(1)
    assert all(math.isfinite(value) for value in row.values())


@pytest.mark.slow
def test_a_plugin_does_not_change_the_initialization(runs):
    # The student starts from the same weights, whatever is plugged in.
    plain, plugged = (
        setup_of(job(runs, "method=st", *more)) for more in ((), ("plugin=ctkd_instance",))
    )
    for one, other in zip(plain.student.parameters(), plugged.student.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_the_names_of_a_job_have_its_plugins(runs):
    named = job(runs, "method=st", "plugin=[ea,standardize]")
    assert named.label == "synthetic resnet20-resnet8_half st + ea + standardize seed 0"
    assert named.folder.split("/")[2] == "st+ea+standardize"
    assert named.traits.revisions == {"st": 1, "plugins.ea": 1, "plugins.standardize": 1}
    assert job(runs, "method=st", "plugin=ea").identity != job(runs, "method=st").identity
