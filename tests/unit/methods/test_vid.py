"""VID: how surprising the teacher's map is, with variances that learn."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.jobs import job, trained
from helpers.maps import channels, without_adapter
from helpers.outputs import (
    batch_of,
    has_the_gradient_that_differences_give,
    is_finite_with_its_gradient,
    meeting,
    never_asks_for_a_number,
    output_of,
    rand,
)
from torch.autograd import gradcheck

from kd_bench.interfaces import UserError
from kd_bench.jobs import assemble, resolve
from kd_bench.methods.vid import VariationalInformation
from kd_bench.training import loop

SPEC = meeting(
    {"stage1": (2, 4, 2), "stage2": (2, 2, 2)}, {"stage1": (3, 2, 2), "stage2": (2, 2, 2)}
)
BATCH = batch_of(SPEC, 2)


def vid(*stages: str, initial: float = 5.0, smallest: float = 1e-5, of=SPEC):
    return VariationalInformation(of, stages or ["stage2"], initial, smallest)


def with_plain_mean(loss: VariationalInformation) -> VariationalInformation:
    for gaussian in loss.gaussians.values():
        without_adapter(gaussian, "mean")
    return loss


def test_the_surprise_is_the_scaled_square_and_the_logarithm_of_the_variance():
    # Errors 1 and 2 in one channel, 0 and 0 in the other, variance 2:
    # ((1 + 4 + 0 + 0) / 4 / 2 + ln 2) / 2 = (0.625 + 0.693147) / 2 = 0.659074
    loss = with_plain_mean(vid(initial=2.0))
    student = output_of(stage2=channels([1.0, 2.0], [3.0, 4.0]))
    teacher = output_of(stage2=channels([0.0, 4.0], [3.0, 4.0]))
    assert loss(student, teacher, BATCH).item() == pytest.approx(0.659074, abs=1e-6)


def test_it_adds_up_the_stages():
    # No error: ln 2 / 2 for each of them
    x = channels([1.0, 2.0], [3.0, 4.0])
    equal = meeting({"stage1": (2, 1, 2), "stage2": (2, 1, 2)}, SPEC.student)
    loss = with_plain_mean(vid("stage1", "stage2", initial=2.0, of=equal))
    value = loss(output_of(stage1=x, stage2=x), output_of(stage1=x, stage2=x), BATCH)
    assert value.item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("initial", [1e-3, 5.0, 1e3])
def test_every_channel_begins_with_the_initial_variance(initial):
    (gaussian,) = vid(initial=initial).gaussians.values()
    torch.testing.assert_close(gaussian.variance(), torch.full((2,), initial))


def test_a_variance_never_gets_to_zero():
    (gaussian,) = vid(smallest=0.1).gaussians.values()
    gaussian.a.data.fill_(-1e4)
    assert gaussian.variance().tolist() == pytest.approx([0.1, 0.1])


def test_trained_variances_are_the_mean_squares_of_their_channels_errors():
    # Where the likelihood of a normal distribution is largest. Errors of 2 in the first channel,
    # of 1/2 in the second: 4 and 1/4, and from 5 on the way there is long for both.
    loss = with_plain_mean(vid())
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0, momentum=0.9)
    teacher = channels([2.0, -2.0], [0.5, -0.5])
    for _ in range(400):
        optimizer.zero_grad()
        loss(
            output_of(stage2=torch.zeros_like(teacher)), output_of(stage2=teacher), BATCH
        ).backward()
        optimizer.step()
    (gaussian,) = loss.gaussians.values()
    assert gaussian.variance().tolist() == pytest.approx([4.0, 0.25], rel=1e-3)


def test_a_job_trains_its_variances(tmp_path):
    config = job(tmp_path, "method=vid")
    trained(resolve.teacher_job(config))
    work = assemble.assemble_setup(config, torch.device("cpu"))
    gaussians = work.method.losses["vid"].gaussians
    before = {stage: gaussian.variance().detach() for stage, gaussian in gaussians.items()}
    assert all((variance - 5).abs().max() < 1e-5 for variance in before.values())
    loop.train(work, tmp_path, lambda *_: None)
    for stage, gaussian in gaussians.items():
        # Weight decay alone moves them together; the data tell channels apart.
        assert (gaussian.variance() - before[stage]).abs().min() > 0
        assert gaussian.variance().unique().numel() > 1


def test_it_has_the_gradient_that_differences_give_and_never_waits_for_a_number():
    torch.manual_seed(0)
    loss = vid("stage1", "stage2")
    assert has_the_gradient_that_differences_give(loss, SPEC)
    teacher = output_of(stage2=rand(2, 2, 2, 2, seed=1))
    student = output_of(stage2=rand(2, 2, 2, 2))
    only = vid().double()
    a = only.gaussians["stage2"].a
    assert gradcheck(lambda _: only(student, teacher, BATCH), a)
    assert never_asks_for_a_number(lambda context: vid("stage1", of=context), SPEC)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_it_is_finite_for_features_of_any_size(scale):
    assert is_finite_with_its_gradient(vid("stage1", "stage2"), SPEC, scale)


@pytest.mark.parametrize(
    ("initial", "smallest", "message"),
    [
        (5.0, 0.0, r"^smallest_variance must be a number above 0, got 0\.0$"),
        (0.0, 1e-5, r"^initial_variance must be a number above 0, got 0\.0$"),
        (1.0, 1.0, r"^smallest_variance must be below initial_variance, 1\.0, got 1\.0$"),
    ],
)
def test_variances_out_of_range_are_refused(initial, smallest, message):
    with pytest.raises(UserError, match=message):
        vid(initial=initial, smallest=smallest)
