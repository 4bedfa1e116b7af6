"""Rules for every method in conf/method that reads only logits."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from helpers.logit_losses import context, labelled
from helpers.outputs import needs_no_device_sync, rand, total
from helpers.shipped import choices, load
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output, PerImageLoss, UserError
from kd_bench.jobs import instantiate


def build(name: str, for_context: LossContext) -> Loss:
    """The loss of a method with a single loss, with the hyperparameters of its file."""
    (loss,) = instantiate.build_method(load("method", name), for_context).losses.values()
    return loss


def reads_only_logits(name: str) -> bool:
    """Whether the method has a single loss, which needs only logits."""
    if len(load("method", name).losses) != 1:
        return False
    try:
        loss = build(name, context(10))
    except UserError as error:  # the networks in the context have no stages and no tokens
        assert re.search("stage|token", str(error))  # noqa: PT017
        return False
    more = loss.needs_networks or loss.needs_input_gradients or loss.stages
    return not more and type(loss).extra_views is Loss.extra_views


METHODS = [name for name in choices("method") if reads_only_logits(name)]
PER_IMAGE = [name for name in METHODS if isinstance(build(name, context(10)), PerImageLoss)]
RELATE_IMAGES = {"ckd", "luminet"}  # the loss of an image depends on the batch by design
DRAW_TARGETS = {"control_noise"}  # from the index of the image and of the class


def evaluate(loss: Loss, student: Tensor, teacher: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The sum of the terms, and its gradient."""
    student = student.clone().requires_grad_()
    value = total(loss(Output(student), Output(teacher), batch))
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


def logits(size: int, classes: int, scale: float) -> tuple[Tensor, Tensor, Batch]:
    """Logits of both networks, and a batch; the teacher is correct on half of the images."""
    batch = labelled(*(i % classes for i in range(size)))
    student, teacher = scale * rand(size, classes), scale * rand(size, classes, seed=1)
    teacher[::2] += 3 * scale * torch.nn.functional.one_hot(batch.target, classes)[::2]
    return student, teacher, batch


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_large_logits_few_classes_and_single_images_give_finite_values_and_gradients(
    name, precision
):
    # Losses get logits in single precision, which networks may have computed in bfloat16.
    for classes in (2, 10, 100):
        try:
            loss = build(name, context(classes))
        except UserError as error:
            assert classes == 2
            assert "from 1 to 1" in str(error)  # noqa: PT017  # a number of classes below 2
            continue
        for size in (1, 6):
            student, teacher, batch = logits(size, classes, scale=50.0)
            student, teacher = (x.to(precision).float() for x in (student, teacher))
            value, gradient = evaluate(loss, student, teacher, batch)
            assert value.isfinite()
            assert gradient.isfinite().all()


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 50.0])
@pytest.mark.parametrize("name", METHODS)
def test_single_and_double_precision_agree(name, scale):
    student, teacher, batch = logits(12, 10, scale)
    student, teacher = student.float(), teacher.float()
    loss = build(name, context(10))
    value, gradient = evaluate(loss, student, teacher, batch)
    exact, exact_gradient = evaluate(loss.double(), student.double(), teacher.double(), batch)
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-6)
    assert (gradient - exact_gradient).norm() <= 1e-4 * exact_gradient.norm()


@pytest.mark.parametrize("name", sorted(set(METHODS) - DRAW_TARGETS))
def test_the_order_of_the_classes_has_no_effect(name):
    student, teacher, batch = logits(12, 10, scale=3.0)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    renamed = replace(batch, target=order.argsort()[batch.target])
    loss = build(name, context(10)).double()
    value, gradient = evaluate(loss, student, teacher, batch)
    other, other_gradient = evaluate(loss, student[:, order], teacher[:, order], renamed)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_gradient, gradient[:, order])


@pytest.mark.parametrize("name", sorted(set(PER_IMAGE) - RELATE_IMAGES - DRAW_TARGETS))
def test_a_per_image_loss_depends_only_on_that_image(name):
    student, teacher, batch = logits(6, 10, scale=3.0)
    loss = build(name, context(10)).double()
    whole = loss.per_image(Output(student), Output(teacher), batch)
    for i in range(6):
        one = labelled(batch.target[i].item())
        alone = loss.per_image(Output(student[i : i + 1]), Output(teacher[i : i + 1]), one)
        torch.testing.assert_close(total(alone)[0], total(whole)[i])


@pytest.mark.parametrize("name", METHODS)
def test_no_loss_synchronizes_with_the_device(name):
    assert needs_no_device_sync(lambda meta: build(name, meta), context(10))
