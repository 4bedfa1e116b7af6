"""Rules for every plug-in in conf/plugin, with methods of different kinds."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from helpers.logit_losses import context, labelled
from helpers.logit_plugins import arguments, build, terms, with_plugins
from helpers.outputs import rand
from helpers.shipped import choices
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, Output, UserError
from kd_bench.jobs import instantiate
from kd_bench.methods.common.method import Method

PLUGINS = choices("plugin")
METHODS = ("st", "dkd", "wsld")
RANDOM = {"tekap"}  # draws random numbers
NOT_EQUIVARIANT = {"ctkd_instance"}  # its weights depend on the order of the classes
each_plugin = pytest.mark.parametrize("plugin", PLUGINS)
each_method = pytest.mark.parametrize("method", METHODS)


def inputs(size: int, classes: int, scale: float) -> tuple[Tensor, Tensor, Batch]:
    """Logits of both networks, and a batch; the teacher is correct on half of the images."""
    batch = labelled(*(i % classes for i in range(size)))
    student, teacher = scale * rand(size, classes), scale * rand(size, classes, seed=1)
    teacher[::2] += 3 * scale * torch.nn.functional.one_hot(batch.target, classes)[::2]
    return student, teacher, batch


def evaluate(method: Method, student: Tensor, teacher: Tensor, batch: Batch) -> list[Tensor]:
    """The sum of the terms, and its gradients for the student's logits and all parameters."""
    torch.manual_seed(0)
    student = student.clone().requires_grad_()
    total = sum(terms(method, student, teacher, batch).values())
    return [total.detach(), *torch.autograd.grad(total, [student, *method.parameters()])]


@each_plugin
def test_a_plugin_has_the_name_of_its_file(plugin):
    assert list(arguments(plugin)) == [plugin]


@each_plugin
def test_hyperparameters_have_their_only_default_in_yaml(plugin):
    (kind,) = instantiate.plugin_classes(with_plugins("st", plugin)).values()
    given = arguments(plugin)[plugin].keys() - {"_target_"}
    taken = inspect.signature(kind).parameters.values()
    assert given == {p.name for p in taken} - {"context"}
    assert all(p.default is inspect.Parameter.empty for p in taken)


@each_plugin
@each_method
def test_large_logits_few_classes_and_single_images_are_finite(method, plugin):
    for classes in (2, 10, 100):
        for size in (1, 6):
            student, teacher, batch = inputs(size, classes, scale=50.0)
            built = build(method, context(classes), plugin)
            found = evaluate(built, student.float(), teacher.float(), batch)
            assert all(each.isfinite().all() for each in found)


def logit_losses(method: str) -> dict[str, Loss]:
    """The losses of a method that compare logits alone, for 10 classes."""
    try:
        losses = build(method, context(10)).losses
    except UserError:  # it reads features
        return {}
    return {name: loss for name, loss in losses.items() if loss.compares_logits_alone}


@pytest.mark.parametrize("method", choices("method"))
def test_exactly_the_losses_that_ignore_a_temperature_are_marked(method):
    student, teacher, batch = inputs(12, 10, scale=5.0)
    for loss in logit_losses(method).values():
        found = [
            loss(Output(student / temperature), Output(teacher / temperature), batch)
            for temperature in (1.0, 2.0)
        ]
        value, other = (sum(each.values()) if isinstance(each, dict) else each for each in found)
        ratio = (value / other).item()
        is_ignored = any(ratio == pytest.approx(power, rel=1e-3) for power in (1.0, 4.0))
        assert loss.ignores_temperature == is_ignored


@pytest.mark.parametrize("plugin", ["ctkd", "ctkd_instance"])
@pytest.mark.parametrize("method", ["logits", "ckd", "luminet", "mrd", "normkd"])
def test_a_learned_temperature_refuses_losses_that_ignore_it(method, plugin):
    with pytest.raises(UserError, match=r"is a temperature, which loss|not a mean over images"):
        build(method, context(10), plugin)


@each_plugin
@each_method
def test_single_and_double_precision_agree(method, plugin):
    if plugin in RANDOM:
        pytest.skip("draws other random numbers in double precision")
    student, teacher, batch = inputs(12, 10, scale=5.0)
    student, teacher = student.float(), teacher.float()
    built = build(method, context(10), plugin)
    found = evaluate(built, student, teacher, batch)
    exact = evaluate(built.double(), student.double(), teacher.double(), batch)
    for one, other in zip(found, exact, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@each_plugin
@each_method
def test_the_order_of_the_classes_has_no_effect(method, plugin):
    if plugin in RANDOM | NOT_EQUIVARIANT:
        pytest.skip("depends on the order by design")
    student, teacher, batch = inputs(12, 10, scale=3.0)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    renamed = replace(batch, target=order.argsort()[batch.target])
    built = build(method, context(10), plugin).double()
    value, gradient, *_ = evaluate(built, student, teacher, batch)
    other, other_gradient, *_ = evaluate(built, student[:, order], teacher[:, order], renamed)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_gradient, gradient[:, order])


@each_plugin
def test_a_plugin_changes_the_loss_but_not_cross_entropy(plugin):
    student, teacher, batch = inputs(12, 10, scale=3.0)
    plain = terms(build("st", context(10)).double(), student, teacher, batch)
    changed = terms(build("st", context(10), plugin).double(), student, teacher, batch)
    assert torch.equal(changed["ce"], plain["ce"])
    assert not torch.isclose(changed["st"], plain["st"])


@each_plugin
def test_every_trained_parameter_has_a_gradient(plugin):
    _, _, *gradients = evaluate(build("st", context(10), plugin).double(), *inputs(12, 10, 3.0))
    assert all(gradient.any() for gradient in gradients)


@each_plugin
def test_the_teacher_has_no_gradient_and_keeps_its_logits(plugin):
    student, teacher, batch = inputs(6, 10, scale=3.0)
    before = teacher.clone()
    found = terms(build("st", context(10), plugin).double(), student, teacher, batch)
    assert torch.equal(teacher, before)
    assert not student.requires_grad
    assert found["st"].requires_grad == bool(list(build("st", context(10), plugin).parameters()))


@each_plugin
def test_a_plugin_resumes_from_its_state_dict(plugin):
    built, twin = (build("st", context(10), plugin) for _ in range(2))
    student, teacher, batch = inputs(6, 10, scale=3.0)
    student, teacher = student.float(), teacher.float()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1)
    twin.load_state_dict(built.state_dict())
    found, again = (evaluate(each, student, teacher, batch) for each in (built, twin))
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@each_plugin
@each_method
def test_a_plugin_does_not_synchronize_with_the_device(method, plugin):
    # On the meta device, code that would synchronize with a GPU raises an error.
    with torch.device("meta"):
        built = build(
            method, replace(context(10), labels=torch.empty(12, dtype=torch.long)), plugin
        )
        student, teacher = torch.empty(6, 10, requires_grad=True), torch.empty(6, 10)
        target = torch.empty(6, dtype=torch.long)
        batch = Batch(torch.empty(6, 3, 4, 4), target, target, torch.empty(()))
        sum(terms(built, student, teacher, batch).values()).backward()


def test_all_plugins_can_be_combined():
    student, teacher, batch = inputs(6, 10, scale=50.0)
    built = build("dkd", context(10), *PLUGINS)
    found = evaluate(built, student.float(), teacher.float(), batch)
    assert all(each.isfinite().all() for each in found)
