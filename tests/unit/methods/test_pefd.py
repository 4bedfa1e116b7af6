"""PEFD: a value by hand, the ensemble of projectors, and invariance to scale."""

from __future__ import annotations

import pytest
import torch
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor, nn

from kd_bench.interfaces import LossContext, UserError
from kd_bench.methods.pefd import ProjectorEnsemble

CONTEXT = context_of({"pooled": (3,)}, {"pooled": (5,)})


def make(context: LossContext = CONTEXT, projectors: int = 3) -> ProjectorEnsemble:
    torch.manual_seed(0)
    return ProjectorEnsemble(context, projectors)


def per_image(loss: ProjectorEnsemble, student: Tensor, teacher: Tensor) -> Tensor:
    batch = batch_of(CONTEXT, len(student))
    return loss.per_image(output_of(pooled=student), output_of(pooled=teacher), batch)


def scaled(factor: float) -> nn.Linear:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.eye(2) * factor
    return layer


def test_a_value_by_hand():
    # relu(h) + relu(-2 h) with h = (3, -2): (3, 4); cosine with (1, 0) is 3/5, with (3, 4) is 1
    loss = make(projectors=2)
    loss.projectors = nn.ModuleList([scaled(1.0), scaled(-2.0)])
    student = torch.tensor([[3.0, -2.0], [3.0, -2.0]])
    teacher = torch.tensor([[1.0, 0.0], [6.0, 8.0]])
    assert per_image(loss, student, teacher).tolist() == pytest.approx([0.4, 0.0], abs=1e-6)


def test_projectors_are_averaged_after_the_relu():
    loss = make().double()
    student, teacher = rand(4, 3), rand(4, 5, seed=1)
    mean = sum(
        torch.relu(student @ layer.weight.T + layer.bias) for _, layer in loss.projectors
    ) / len(loss.projectors)
    expected = 1 - nn.functional.cosine_similarity(mean, teacher, dim=1)
    torch.testing.assert_close(per_image(loss, student, teacher), expected)


def test_projectors_differ_from_the_start():
    first, second, third = (layer.weight for _, layer in make().projectors)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_the_teachers_scale_changes_nothing():
    loss = make().double()
    student, teacher = rand(4, 3), rand(4, 5, seed=1)
    scale = torch.tensor([[0.1], [1.0], [30.0], [1e4]])
    torch.testing.assert_close(
        per_image(loss, student, scale * teacher), per_image(loss, student, teacher)
    )


def test_an_ensemble_of_dead_relus_has_loss_1_and_no_gradient():
    loss = make(projectors=1)
    loss.projectors = nn.ModuleList([scaled(1.0)])
    student = torch.tensor([[-1.0, -2.0]]).requires_grad_()
    value = per_image(loss, student, torch.ones(1, 2))
    value.sum().backward()
    assert value.item() == 1
    assert not student.grad.any()


def test_no_projector_is_refused():
    with pytest.raises(UserError, match="projectors must be 1 or more, got 0"):
        make(projectors=0)
