"""Random targets: fixed by seed and image, as confident as a teacher, independent of labels."""

import math

import pytest
import torch
from helpers.jobs import job, setup_of, train
from helpers.logit_losses import context, divergence, labelled, per_image, softmax
from helpers.outputs import rand
from scipy import stats

from kd_bench.interfaces import Output, UserError
from kd_bench.methods.control_noise import NoiseTarget
from kd_bench.methods.st import SoftTarget


def make(seed: int = 0, classes: int = 10, **values: float) -> NoiseTarget:
    torch.manual_seed(seed)
    given = {"temperature": 4.0, "confidence": 0.99, "spread": 2.0} | values
    return NoiseTarget(context(classes), **given)


INDEX = torch.arange(2000)


def test_the_value_is_the_soft_target_loss_of_the_random_logits():
    loss, student, batch = make(), rand(3, 10), labelled(0, 4, 2)
    logits = loss.logits(batch.index)
    by_hand = [
        16 * divergence(softmax(target, 4.0), softmax(own, 4.0))
        for target, own in zip(logits.tolist(), student.tolist(), strict=True)
    ]
    assert per_image(loss, student, None, batch) == pytest.approx(by_hand)
    soft = SoftTarget(context(10), 4.0)(Output(student), Output(logits), batch)
    assert loss(Output(student), None, batch).item() == pytest.approx(soft.item())


def test_an_image_has_the_same_target_in_any_batch_and_epoch():
    loss = make()
    whole = loss.logits(INDEX)
    assert torch.equal(loss.logits(INDEX.flip(0)).flip(0), whole)
    assert torch.equal(loss.logits(INDEX[7:8]), whole[7:8])
    loss.on_epoch_start("main")
    assert torch.equal(loss.logits(INDEX), whole)


def test_targets_depend_on_the_seed_and_a_resumed_job_keeps_them():
    one, other = make(seed=0), make(seed=1)
    assert torch.equal(one.logits(INDEX), make(seed=0).logits(INDEX))
    assert not torch.equal(one.logits(INDEX), other.logits(INDEX))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.logits(INDEX), other.logits(INDEX))


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_one_class_has_the_confidence_and_the_others_are_normal(classes):
    logits = make(classes=classes).logits(INDEX)
    most, chosen = logits.softmax(1).max(1)
    torch.testing.assert_close(most, torch.full_like(most, 0.99))
    others = logits[torch.arange(classes) != chosen[:, None]]
    assert stats.kstest(others[:5000].numpy() / 2.0, "norm").pvalue > 0.01


def test_the_class_is_uniform_and_independent_of_the_label():
    chosen = make().logits(INDEX).argmax(1)
    seen = torch.zeros(10, 10)
    seen.index_put_((INDEX % 10, chosen), torch.ones(len(INDEX)), accumulate=True)
    assert stats.chisquare(seen.sum(0).numpy()).pvalue > 0.01
    assert stats.chi2_contingency(seen.numpy()).pvalue > 0.01


@pytest.mark.slow
def test_without_weight_it_is_the_baseline_bit_for_bit(tmp_path):
    plain = setup_of(job(tmp_path, "method=baseline"))
    silent = setup_of(job(tmp_path, "method=control_noise", "method.weights.control_noise=0"))
    histories = [train(work, tmp_path).history for work in (plain, silent)]
    for before, now in zip(*histories, strict=True):
        assert before == {name: now[name] for name in before}
    assert all(map(torch.equal, *(w.student.net.state_dict().values() for w in (plain, silent))))


def test_it_needs_no_teacher(tmp_path):
    the_job = job(tmp_path, "method=control_noise")
    assert the_job.teacher is None
    assert the_job.folder.startswith("synthetic/none-resnet8_half/control_noise/")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0}, "temperature must be a number above 0"),
        ({"confidence": 0.1}, r"confidence must be above 1/10.* and below 1, got 0\.1"),
        ({"confidence": 1.0}, "confidence must be above 1/10"),
        ({"spread": -1.0}, "spread must be 0 or more"),
        ({"spread": math.nan}, "spread must be 0 or more"),
        ({"classes": 1}, "two classes or more, got 1"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        make(**values)
