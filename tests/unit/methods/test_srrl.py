"""SRRL: values by hand, the teacher's classifier, and the trained parameters."""

from __future__ import annotations

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand
from helpers.shipped import shapes
from torch import Tensor, nn
from torch.autograd import gradcheck

from kd_bench.interfaces import LossContext, Networks, Output, StageShapes, UserError
from kd_bench.methods.srrl import SoftmaxRegression

CONTEXT = LossContext(
    StageShapes("small", {"stage3": (3, 2, 2), "pooled": (3,)}, {}),
    StageShapes("large", {"stage3": (5, 2, 2), "pooled": (5,)}, {"pooled": "fc:input"}),
    num_classes=4,
    labels=torch.arange(12) % 4,
    epochs=1,
)


def networks(classifier) -> Networks:
    return Networks(None, None, None, classifier)


def evaluate(loss, student: Tensor, teacher: Output, classifier) -> dict[str, Tensor]:
    batch = batch_of(CONTEXT, len(student))
    return loss(output_of(stage3=student), teacher, batch, networks(classifier))


def test_values_by_hand():
    # The connector is a ReLU: averages over positions (2, 1) against (0, 0) give (4 + 1) / 2. The
    # classifier adds the channels: 3 against 1 and 0 against 0 give 4 / 2
    loss = SoftmaxRegression(CONTEXT, "stage3")
    loss.connector = nn.ReLU()
    student = torch.tensor([[[[4.0, 0.0]], [[-2.0, 2.0]]]])
    teacher = Output(torch.tensor([[1.0, 0.0]]), {"pooled": torch.zeros(1, 2)})
    terms = evaluate(loss, student, teacher, lambda x: torch.stack([x.sum(1), 0 * x[:, 0]], 1))
    assert {name: term.item() for name, term in terms.items()} == {"feature": 2.5, "logits": 2.0}


def test_both_terms_are_zero_if_the_connector_gives_the_teachers_features():
    loss = SoftmaxRegression(CONTEXT, "stage3").double()
    student, classifier = rand(6, 3, 2, 2), nn.Linear(5, 4).double()
    pooled = loss.connector(student).mean((2, 3)).detach()
    terms = evaluate(loss, student, Output(classifier(pooled), {"pooled": pooled}), classifier)
    assert all(term.item() == pytest.approx(0, abs=1e-25) for term in terms.values())


def test_the_gradient_goes_through_the_classifier_only_to_student_and_connector():
    loss = SoftmaxRegression(CONTEXT, "stage3")
    classifier = nn.Linear(5, 4).requires_grad_(False)
    student = torch.randn(6, 3, 2, 2, requires_grad=True)
    teacher = Output(torch.randn(6, 4), {"pooled": torch.randn(6, 5)})
    evaluate(loss, student, teacher, classifier)["logits"].backward()
    assert student.grad.any()
    assert all(p.grad.any() for p in loss.parameters())
    assert classifier.weight.grad is None


def test_it_passes_gradcheck():
    loss = SoftmaxRegression(CONTEXT, "stage3").double().eval()
    classifier = nn.Linear(5, 4).double()
    teacher = Output(rand(3, 4), {"pooled": rand(3, 5, seed=1)})

    def value(student: Tensor) -> Tensor:
        return sum(evaluate(loss, student, teacher, classifier).values())

    assert gradcheck(value, rand(3, 3, 2, 2, seed=2).requires_grad_())


def test_networks_without_a_map_or_a_classifier_are_refused():
    with pytest.raises(UserError, match="'pooled' of small is not a map"):
        SoftmaxRegression(CONTEXT, "pooled")
    unknown = context_of({"stage3": (3, 2, 2)}, {"stage3": (3, 2, 2), "pooled": (3,)})
    teacher = shapes("large", pooled=(3,))
    teacher.paths["pooled"] = "avgpool"
    with pytest.raises(UserError, match="must be its classifier's input"):
        SoftmaxRegression(LossContext(unknown.student, teacher, 4, unknown.labels, 1), "stage3")
