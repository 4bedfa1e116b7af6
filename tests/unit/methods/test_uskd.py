"""USKD: soft labels by hand, Zipf's law over ranks, and constants without gradient."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, passes_gradcheck, rand
from torch import Tensor

from kd_bench.interfaces import Batch, LossContext, UserError
from kd_bench.methods.uskd import SelfKnowledge

CONTEXT = context_of({"stage2": (3, 2, 2)}, {"stage2": (3, 2, 2)})


def make(context: LossContext = CONTEXT) -> SelfKnowledge:
    torch.manual_seed(0)
    return SelfKnowledge(context, "stage2")


def per_image(
    logits: Tensor, target: list[int], weak: Tensor | None = None, context: LossContext = CONTEXT
) -> dict[str, Tensor]:
    """The terms if the auxiliary classifier has logits `weak`, zeros by default."""
    loss = make(context)
    loss.head = torch.nn.Identity()
    auxiliary = torch.zeros_like(logits) if weak is None else weak
    label = torch.tensor(target)
    batch = Batch(torch.zeros(len(label), 3, 4, 4), label, label, torch.tensor(1.0))
    features = auxiliary[:, :, None, None].expand(-1, -1, 2, 2)
    return loss.per_image(output_of(logits, stage2=features), None, batch)


def test_the_target_term_by_hand():
    # p_y = 1/2 and 1/4: squares 1/4 and 1/16, mean 5/32; soft labels 1 + 3/32 and 1 - 3/32
    logits = torch.tensor([[3.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]).log()
    value = per_image(logits, [0, 3])["target"]
    expected = [(1 + 3 / 32) * math.log(2), (1 - 3 / 32) * math.log(4)]
    assert value.tolist() == pytest.approx(expected)


def test_the_soft_label_of_the_target_is_a_constant():
    # So its gradient is that of cross entropy, times the soft label.
    logits = rand(3, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(per_image(logits, [0, 1, 2])["target"].sum(), logits)
    p = logits.detach().softmax(1)
    own = torch.eye(4)[:3].double()
    square = (p * own).sum(1).square()
    label = square + 1 - square.mean()
    torch.testing.assert_close(gradient, label[:, None] * (p - own))


def test_other_classes_have_targets_from_zipfs_law_by_rank():
    # Label 1; the others rank class 3, then 0, then 2: shares 1, 1/2, 1/3 over 11/6.
    logits = torch.tensor([[2.0, 9.0, 1.0, 4.0]]).log()
    value = per_image(logits, [1])["others"]
    shares, q = [6 / 11, 3 / 11, 2 / 11], [4 / 7, 2 / 7, 1 / 7]
    expected = -sum(z * math.log(x) for z, x in zip(shares, q, strict=True))
    assert value.tolist() == pytest.approx([expected])


def test_ranks_are_by_the_sum_of_both_classifiers_probabilities():
    # Without the label 0: q = (.5, .3, .2) and q_w = (.1, .2, .7) rank the last class first, 0.9,
    # then 0.6 and 0.5. Logarithms would rank by .05, .06 and .14: the second before the first.
    logits = torch.tensor([[7.0, 0.5, 0.3, 0.2]]).log()
    weak = torch.tensor([[5.0, 0.1, 0.2, 0.7]]).log()
    value = per_image(logits, [0], weak)["others"]
    shares, q = [3 / 11, 2 / 11, 6 / 11], [0.5, 0.3, 0.2]
    expected = -sum(z * math.log(x) for z, x in zip(shares, q, strict=True))
    assert value.tolist() == pytest.approx([expected])


def test_the_label_has_no_influence_on_the_other_classes():
    logits, weak = rand(3, 4), rand(3, 4, seed=1)
    own = 9 * torch.eye(4)[[2, 0, 1]]
    before = per_image(logits, [2, 0, 1], weak)["others"]
    after = per_image(logits + own, [2, 0, 1], weak - own)["others"]
    torch.testing.assert_close(after, before)


def test_the_auxiliary_classifier_learns_only_smoothed_labels():
    # 0.9 on the label and 0.1 / 4 on all: uniform predictions cost log 4
    assert per_image(torch.zeros(1, 4), [2])["weak"].tolist() == pytest.approx([math.log(4)])
    weak = torch.tensor([[3.0, 1.0, 1.0, 1.0]]).log()
    value = per_image(torch.zeros(1, 4), [0], weak)["weak"]
    assert value.tolist() == pytest.approx([-0.925 * math.log(1 / 2) - 0.075 * math.log(1 / 6)])
    loss = make()
    student = output_of(torch.zeros(4, 4, requires_grad=True), stage2=torch.ones(4, 3, 2, 2))
    terms = loss(student, None, batch_of(CONTEXT, 4))
    (terms["target"] + terms["others"]).backward()
    assert loss.head.weight.grad is None
    terms["weak"].backward()
    assert loss.head.weight.grad.any()


def test_it_reads_the_average_of_the_map():
    loss = make().double()
    features = rand(2, 3, 2, 2)
    batch = batch_of(CONTEXT, 2)
    value = loss(output_of(torch.zeros(2, 4).double(), stage2=features), None, batch)["weak"]
    logits = loss.head(features.flatten(2).mean(2))
    expected = torch.nn.functional.cross_entropy(logits, batch.target, label_smoothing=0.1)
    torch.testing.assert_close(value, expected)


def test_two_classes_leave_no_others():
    context = context_of({"stage2": (2, 2, 2)}, {}, classes=2)
    logits = rand(2, 2).requires_grad_()
    value = per_image(logits, [0, 1], context=context)["others"]
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.tolist() == [0, 0]
    assert not gradient.any()


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
def test_a_batch_of_one_and_large_logits_are_finite(scale):
    logits = (scale * rand(1, 4).float()).requires_grad_()
    value = sum(per_image(logits, [2], scale * rand(1, 4, seed=1).float()).values()).sum()
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_the_soft_labels_are_left_out_of_the_gradient():
    # Finite differences would therefore disagree for "target"; the other terms pass.
    class Rest(SelfKnowledge):
        def per_image(self, student, teacher, batch):
            terms = super().per_image(student, teacher, batch)
            return terms["others"] + terms["weak"]

    assert passes_gradcheck(Rest(CONTEXT, "stage2"), CONTEXT)


def test_a_stage_that_is_not_a_map_is_refused():
    context = context_of({"stage2": (3,)}, {})
    with pytest.raises(UserError, match="stage 'stage2' of small is not a map"):
        make(context)


def test_a_single_class_is_refused():
    context = context_of({"stage2": (3, 2, 2)}, {}, classes=1)
    with pytest.raises(UserError, match="two classes or more, got 1"):
        make(context)
