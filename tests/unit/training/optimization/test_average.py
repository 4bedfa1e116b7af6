"""The average of a student's weights: by hand, against PyTorch, and as the result of a job."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs import job, setup_of, train
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kd_bench.training import loop
from kd_bench.training.optimization.average import WeightAverage


def test_the_average_matches_the_textbook():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    average = WeightAverage(net, 0.75)
    for weight, expected in ((3.0, 1.5), (0.0, 1.125)):  # 0.75 * 1 + 0.25 * 3; 0.75 * 1.5
        nn.init.constant_(net.weight, weight)
        average.update()
        assert average.state[0].item() == expected


def test_it_equals_pytorchs_average_of_parameters_and_buffers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(net)  # the first time, it copies
    average = WeightAverage(net, 0.9)
    for _ in range(4):
        net(torch.randn(4, 3, 5, 5))
        for parameter in net.parameters():
            parameter.data += torch.randn_like(parameter)
        average.update()
        theirs.update_parameters(net)
    expected = theirs.module.state_dict()
    for name, value in zip(expected, average.state, strict=True):
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
    assert average.state[-1] == net[1].num_batches_tracked == 4


def test_the_network_gets_its_own_weights_back_after_an_error():
    net = nn.Linear(2, 2)
    average = WeightAverage(net, 0.5)
    net.weight.data += 1.0
    own = net.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt), average.in_place_of_weights():
        raise KeyboardInterrupt
    assert torch.equal(net.weight, own)


def test_the_network_gets_its_own_weights_back():
    net = nn.Linear(2, 2)
    average = WeightAverage(net, 0.5)
    first = net.weight.detach().clone()
    net.weight.data += 1.0
    own = net.weight.detach().clone()
    with average.in_place_of_weights():
        assert torch.equal(net.weight, first)
    assert torch.equal(net.weight, own)


@pytest.mark.slow
def test_a_job_evaluates_the_average_and_ends_with_it(runs, tmp_path):
    plain, averaged = (
        setup_of(job(runs, "method=baseline", f"recipe.ema={decay}")) for decay in (0.0, 0.5)
    )
    histories = [train(work, tmp_path).history for work in (plain, averaged)]
    # The average has no effect on training,
    assert [row["total"] for row in histories[0]] == [row["total"] for row in histories[1]]
    # and at the end it replaces the student's weights, and is what was evaluated.
    weights = [work.student.net.fc.weight for work in (plain, averaged)]
    assert not torch.equal(*weights)
    score = loop.evaluate(averaged.student, averaged.data, averaged.data.test)
    assert histories[1][-1]["test_accuracy"] == score
