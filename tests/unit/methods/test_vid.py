"""VID: the Gaussian log-likelihood with trained variances."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.jobs import job, setup_of, train
from helpers.maps import channels, without_adapter
from helpers.outputs import (
    batch_of,
    context_of,
    needs_no_device_sync,
    output_of,
    passes_gradcheck,
    rand,
)
from torch.autograd import gradcheck

from kd_bench.interfaces import UserError
from kd_bench.methods.vid import VariationalInformation

CONTEXT = context_of(
    {"stage1": (2, 4, 2), "stage2": (2, 2, 2)}, {"stage1": (3, 2, 2), "stage2": (2, 2, 2)}
)
BATCH = batch_of(CONTEXT, 2)


def vid(*stages: str, initial: float = 5.0, smallest: float = 1e-5, of=CONTEXT):
    return VariationalInformation(of, stages or ["stage2"], initial, smallest)


def with_plain_mean(loss: VariationalInformation) -> VariationalInformation:
    for gaussian in loss.gaussians.values():
        without_adapter(gaussian, "mean")
    return loss


def test_the_loss_is_the_scaled_square_plus_the_log_variance():
    # Errors 1 and 2 in one channel, 0 and 0 in the other, variance 2:
    # ((1 + 4 + 0 + 0) / 4 / 2 + ln 2) / 2 = (0.625 + 0.693147) / 2 = 0.659074
    loss = with_plain_mean(vid(initial=2.0))
    student = output_of(stage2=channels([1.0, 2.0], [3.0, 4.0]))
    teacher = output_of(stage2=channels([0.0, 4.0], [3.0, 4.0]))
    assert loss(student, teacher, BATCH).item() == pytest.approx(0.659074, abs=1e-6)


def test_it_sums_over_stages():
    # No errors: ln 2 / 2 for each value
    x = channels([1.0, 2.0], [3.0, 4.0])
    equal = context_of({"stage1": (2, 1, 2), "stage2": (2, 1, 2)}, CONTEXT.student)
    loss = with_plain_mean(vid("stage1", "stage2", initial=2.0, of=equal))
    value = loss(output_of(stage1=x, stage2=x), output_of(stage1=x, stage2=x), BATCH)
    assert value.item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("initial", [1e-3, 5.0, 1e3])
def test_every_channel_starts_with_the_initial_variance(initial):
    (gaussian,) = vid(initial=initial).gaussians.values()
    torch.testing.assert_close(gaussian.variance(), torch.full((2,), initial))


def test_a_variance_stays_above_its_minimum():
    (gaussian,) = vid(smallest=0.1).gaussians.values()
    gaussian.a.data.fill_(-1e4)
    assert gaussian.variance().tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.slow
def test_trained_variances_converge_to_the_mean_squared_errors_of_their_channels():
    # The maximum likelihood estimates. Errors are 2 in the first channel and 1/2 in the second: 4
    # and 1/4, both far from the initial 5.
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


@pytest.mark.slow
def test_a_job_trains_its_variances(tmp_path):
    work = setup_of(job(tmp_path, "method=vid"))
    gaussians = work.method.losses["vid"].gaussians
    before = {stage: gaussian.variance().detach() for stage, gaussian in gaussians.items()}
    assert all((variance - 5).abs().max() < 1e-5 for variance in before.values())
    train(work, tmp_path)
    for stage, gaussian in gaussians.items():
        # Weight decay alone would change all equally; the data makes channels differ.
        assert (gaussian.variance() - before[stage]).abs().min() > 0
        assert gaussian.variance().unique().numel() > 1


def test_it_passes_gradcheck_and_needs_no_device_sync():
    torch.manual_seed(0)
    loss = vid("stage1", "stage2")
    assert passes_gradcheck(loss, CONTEXT)
    teacher = output_of(stage2=rand(2, 2, 2, 2, seed=1))
    student = output_of(stage2=rand(2, 2, 2, 2))
    only = vid().double()
    a = only.gaussians["stage2"].a
    assert gradcheck(lambda _: only(student, teacher, BATCH), a)
    assert needs_no_device_sync(lambda context: vid("stage1", of=context), CONTEXT)


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
