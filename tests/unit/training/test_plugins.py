"""Plug-ins in training: their parameters learn, resume to equal bits, and bf16 is finite."""

import math

import pytest
import torch
from helpers.jobs import job, setup_of, trained
from helpers.shipped import choices

from kd_bench.jobs.runner import NullReporter, run_with_teacher
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import phases

PLUGINS = choices("plugin")


class Stop(Exception):  # noqa: N818
    """Ends a job."""


class StopAfterOne(NullReporter):
    """Raises an error after the first epoch."""

    def epoch(self, row, timing):
        raise Stop


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
@pytest.mark.parametrize("plugins", ["ctkd", "ctkd_instance", "tekap", "[ea,ctkd_instance,tekap]"])
def test_a_job_that_was_interrupted_resumes_to_equal_bits(tmp_path, plugins):
    typed = ("method=dkd", f"plugin={plugins}")
    record, whole = trained(job(tmp_path / "whole", *typed))
    interrupted = job(tmp_path / "parts", *typed)
    trained(interrupted.teacher)
    with pytest.raises(Stop):
        run_with_teacher(interrupted, StopAfterOne())
    assert not interrupted.is_done
    _, parts = trained(interrupted)
    assert (parts / "history.csv").read_text() == (whole / "history.csv").read_text()
    ours, theirs = (torch.load(f / "weights.pt", weights_only=True) for f in (parts, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert record.folder == interrupted.folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ctkd", "ctkd_instance"])
def test_the_optimizer_trains_the_parameters_of_a_plugin_and_the_checkpoint_has_them(runs, name):
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


def test_the_other_random_numbers_are_those_without_a_plugin(runs):
    # The student and a method's adapters start from the same weights, whatever is plugged in.
    plain, plugged = (
        setup_of(job(runs, "method=st", *more)) for more in ((), ("plugin=ctkd_instance",))
    )
    for one, other in zip(plain.student.parameters(), plugged.student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_job_is_named_with_its_plugins(runs):
    named = job(runs, "method=st", "plugin=[ea,standardize]")
    assert named.label == "synthetic resnet20-resnet8_half st + ea + standardize seed 0"
    assert named.folder.split("/")[2] == "st+ea+standardize"
    assert named.traits.revisions == {"st": 1, "plugins.ea": 1, "plugins.standardize": 1}
    assert job(runs, "method=st", "plugin=ea").identity != job(runs, "method=st").identity
