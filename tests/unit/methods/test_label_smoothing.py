"""Label smoothing: the weighted sum of its terms is cross entropy with smoothed labels."""

import math

import pytest
import torch
from helpers.jobs import job, setup_of, train
from helpers.logit_losses import context, gradients, labelled, per_image
from helpers.outputs import rand
from helpers.shipped import load

from kd_bench.interfaces import Output
from kd_bench.methods.common.method import Method
from kd_bench.methods.label_smoothing import UniformTarget

BATCH = labelled(0, 2, 1)


def test_the_value_by_hand():
    # Logits (ln 2, 0, 0, 0): probabilities 2/5 and three times 1/5.
    # -(ln 2/5 + 3 ln 1/5) / 4 = ln 5 - (ln 2) / 4
    logits = torch.tensor([[math.log(2), 0.0, 0.0, 0.0]])
    (value,) = per_image(UniformTarget(context(4)), logits, None, labelled(0))
    assert value == pytest.approx(math.log(5) - math.log(2) / 4, rel=1e-6)


def test_the_weighted_sum_is_cross_entropy_with_smoothed_labels():
    file = load("method", "label_smoothing")
    method = Method({"label_smoothing": UniformTarget(context(5))}, file.weights)
    student = rand(3, 5)
    logits, twin = student.clone().requires_grad_(), student.clone().requires_grad_()
    total = method.total(method(Output(logits), None, BATCH), torch.tensor(1.0))
    smoothed = torch.nn.functional.cross_entropy(twin, BATCH.target, label_smoothing=0.1)
    torch.testing.assert_close(total, smoothed)
    torch.testing.assert_close(
        *(torch.autograd.grad(each, x)[0] for each, x in ((total, logits), (smoothed, twin)))
    )


def test_equal_logits_have_no_gradient_and_other_logits_are_pulled_together():
    loss = UniformTarget(context(5))
    assert gradients(loss, torch.ones(3, 5), None, BATCH)[""].abs().max() < 1e-7
    student = rand(3, 5)
    # d/dz = p - 1/K: the largest logit of an image goes down, its smallest up
    pull = gradients(loss, student, None, BATCH)[""]
    torch.testing.assert_close(pull, student.softmax(1) - 1 / 5)


@pytest.mark.slow
def test_without_smoothing_it_is_the_baseline_bit_for_bit(tmp_path):
    plain = setup_of(job(tmp_path, "method=baseline"))
    weights = ("method.weights.ce=1", "method.weights.label_smoothing=0")
    smoothed = setup_of(job(tmp_path, "method=label_smoothing", *weights))
    histories = [train(work, tmp_path).history for work in (plain, smoothed)]
    assert [row["total"] for row in histories[0]] == [row["total"] for row in histories[1]]
    states = [work.student.net.state_dict().values() for work in (plain, smoothed)]
    assert all(map(torch.equal, *states))
