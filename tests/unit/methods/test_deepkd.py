"""DeepKD's mask: a loop over images, its growth, and DKD as the case of all classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.logit_losses import (
    context,
    divergence,
    gradients,
    labelled,
    normalised,
    softmax,
    terms,
)
from helpers.outputs import rand

from kd_bench.interfaces import UserError
from kd_bench.methods.deepkd import GrowingMask
from kd_bench.methods.dkd import DecoupledDistillation

K, EPOCHS = 6, 5
SEEN = labelled(0, 2, 1, 4)


def make(first_share: float = 0.3, classes: int = K, epochs: int = EPOCHS) -> GrowingMask:
    return GrowingMask(replace(context(classes), epochs=epochs), 4.0, first_share)


def in_epoch(epoch: float):
    return replace(SEEN, epoch=torch.tensor(epoch))


def test_k_grows_linearly_to_all_classes():
    # 30 % of 6 classes are 2 (rounded up), and then 3, 4, 5 and 6
    loss = make()
    assert [loss.kept(torch.tensor(float(e))).item() for e in range(1, 6)] == [2, 3, 4, 5, 6]
    assert make(0.01).first == 2
    assert make(epochs=1).kept(torch.tensor(1.0)).item() == 2


@pytest.mark.parametrize("epoch", [1.0, 2.0, 5.0])
def test_it_matches_a_loop(epoch):
    student, teacher = 5 * rand(4, K), 5 * rand(4, K, seed=1)
    expected = []
    for s, t, label in zip(student.tolist(), teacher.tolist(), SEEN.target.tolist(), strict=True):
        likeliest = sorted(range(K), key=lambda k: -t[k])[: int(epoch) + 1]
        kept = [k for k in likeliest if k != label]
        p, q = ([softmax(x, 4.0)[k] for k in kept] for x in (t, s))
        expected.append(16 * divergence(normalised(p), normalised(q)))
    value = terms(make(), student, teacher, in_epoch(epoch))
    assert value["rest"] == pytest.approx(expected)


def test_in_the_last_epoch_it_is_dkd():
    student, teacher = 5 * rand(4, K), 5 * rand(4, K, seed=1)
    dkd = DecoupledDistillation(context(K), 4.0)
    found = terms(make(), student, teacher, in_epoch(float(EPOCHS)))
    assert found == terms(dkd, student, teacher, SEEN)
    early = terms(make(), student, teacher, in_epoch(1.0))
    assert early["target"] == found["target"]
    assert early["rest"] != found["rest"]


def test_masked_classes_have_no_gradient_from_the_rest_term():
    teacher = torch.tensor([[0.0, 5.0, 4.0, -1.0, -2.0, -3.0]] * 4).double()
    found = gradients(make(), rand(4, K), teacher, in_epoch(2.0))["rest"]  # three are kept
    reached = torch.tensor([[1, 1, 1, 0, 0, 0]] * 4).bool() & (
        torch.arange(K) != SEEN.target[:, None]
    )
    # The last image has label 4, which is masked, and keeps three classes; the others keep two
    assert torch.equal(found != 0, reached)


def test_a_share_out_of_range_is_refused():
    with pytest.raises(UserError, match="first_share must be above 0 and at most 1, got 0"):
        make(0)
