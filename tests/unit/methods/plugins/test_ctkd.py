"""Curriculum temperature: values by hand, reversed gradients, the curriculum, T per image."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.logit_losses import context, labelled
from helpers.logit_plugins import build, one, pair_of, terms
from helpers.outputs import rand
from torch import Tensor

from kd_bench.interfaces import LogitPair, LossContext, UserError
from kd_bench.methods.plugins.ctkd import (
    GlobalTemperature,
    InstanceTemperature,
    reversed_gradient,
)
from kd_bench.methods.st import SoftTarget

BATCH = labelled(0, 1, 2)
SHARED = {"start": 1.0, "span": 20.0, "curriculum": 0.25}


def trained_for(epochs: int) -> LossContext:
    """The context of a recipe with that many epochs, and ten classes."""
    return replace(context(10), epochs=epochs)


def in_epoch(epoch: float):
    return replace(BATCH, epoch=torch.tensor(epoch))


def test_values_by_hand():
    # sigmoid(ln 3) = 3/4, so T = 1 + 20 * 3/4 = 16
    plugin = GlobalTemperature(context(4), **SHARED)
    plugin.w.data.fill_(math.log(3))
    pair = one(plugin, pair_of([[16, 32, 0, 0]], [[8, 0, 0, -16]], 2.0), BATCH)
    assert pair.student.tolist()[0] == pytest.approx([1, 2, 0, 0])
    assert pair.teacher.tolist()[0] == pytest.approx([0.5, 0, 0, -1])
    assert pair.weight.item() == pytest.approx(2 * 16**2)


def test_the_initial_temperature_is_that_of_the_authors():
    # 1 + 20 sigmoid(1), with the loss's own temperature of 4
    plugin = build("st", context(4), "ctkd").parts["plugins.ctkd"]
    pair = LogitPair(rand(3, 4), rand(3, 4))
    assert 4 * plugin.temperature(pair).item() == pytest.approx(1 + 20 / (1 + math.exp(-1)))


def test_soft_targets_have_the_learned_temperature_instead_of_their_own():
    student, teacher = rand(3, 10), rand(3, 10, seed=1)
    method = build("st", context(10), "ctkd").double()
    learned = 4 * method.parts["plugins.ctkd"].temperature(LogitPair(student, teacher)).item()
    found = terms(method, student, teacher, BATCH)["st"].item()
    method = build("st", context(10))
    method.losses["st"] = SoftTarget(None, learned)
    assert found == pytest.approx(terms(method, student, teacher, BATCH)["st"].item())


@pytest.mark.parametrize(
    ("epoch", "adversity"),
    [(1, (1 - math.cos(math.pi / 10)) / 2), (5, 0.5), (10, 1.0), (11, 1.0), (200, 1.0)],
)
def test_the_adversary_grows_over_the_first_epochs(epoch, adversity):
    plugin = GlobalTemperature(trained_for(40), **SHARED)  # a quarter of them is 10
    assert plugin.adversity(torch.tensor(float(epoch))).item() == pytest.approx(adversity)


def slope(plugin_name: str, epoch: float, method: str = "st") -> Tensor:
    """The gradient of a loss with respect to the first parameter of a plug-in."""
    torch.manual_seed(0)
    built = build(method, trained_for(240), plugin_name).double()
    loss = terms(built, rand(3, 10), rand(3, 10, seed=1), in_epoch(epoch))[method]
    return torch.autograd.grad(loss, next(built.parameters()))[0]


def test_the_gradient_of_the_temperature_is_reversed():
    # The slope of T^2 KL(T) by finite differences: times -1 in epoch 10, and -1/2 in epoch 5
    def loss(w: float) -> float:
        built = build("st", context(10), "ctkd").double()
        built.parts["plugins.ctkd"].w.data.fill_(w)
        return terms(built, rand(3, 10), rand(3, 10, seed=1), BATCH)["st"].item()

    rise = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
    assert slope("ctkd", 10.0).item() == pytest.approx(-rise, rel=1e-5)
    assert slope("ctkd", 5.0).item() == pytest.approx(-rise / 2, rel=1e-5)


def test_the_students_gradient_does_not_depend_on_the_curriculum():
    built = build("st", trained_for(240), "ctkd_instance").double()
    student = rand(3, 10).requires_grad_()
    gradients = []
    for epoch in (1.0, 10.0):
        loss = terms(built, student, rand(3, 10, seed=1), in_epoch(epoch))["st"]
        gradients.append(torch.autograd.grad(loss, student)[0])
    torch.testing.assert_close(*gradients)


def test_reversing_changes_no_value():
    x = rand(5).float().requires_grad_()
    turned = reversed_gradient(x, torch.tensor(0.3))
    assert torch.equal(turned, x)
    turned.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((5,), -0.3))


def test_each_image_has_its_own_temperature():
    plugin = InstanceTemperature(context(10), **SHARED, hidden=16).double()
    student, teacher = rand(3, 10), rand(3, 10, seed=1)
    pair = one(plugin, LogitPair(student, teacher), BATCH)
    temperature = plugin.temperature(LogitPair(student, teacher))
    assert temperature.shape == (3,)
    assert len(set(temperature.tolist())) == 3
    assert all(1 < each < 21 for each in temperature.tolist())
    torch.testing.assert_close(pair.weight, temperature.square())
    torch.testing.assert_close(pair.student, student / temperature[:, None])
    torch.testing.assert_close(pair.teacher, teacher / temperature[:, None])


def test_without_a_span_the_temperature_is_fixed():
    student, teacher = rand(3, 10), rand(3, 10, seed=1)
    plain = terms(build("dkd", context(10)).double(), student, teacher, BATCH)
    plugin = GlobalTemperature(context(10), start=1.0, span=0.0, curriculum=1.0)
    built = build("dkd", context(10), "ctkd")
    built.plugins.by_name["ctkd"] = plugin
    for name, term in terms(built.double(), student, teacher, BATCH).items():
        torch.testing.assert_close(term, plain[name])


@pytest.mark.parametrize(
    "wrong",
    [{"start": 0.0}, {"span": -1.0}, {"span": math.inf}, {"curriculum": 0.0}, {"curriculum": 2}],
    ids=str,
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        GlobalTemperature(context(4), **(SHARED | wrong))


def test_a_hidden_layer_of_width_0_is_refused():
    with pytest.raises(UserError, match="hidden"):
        InstanceTemperature(context(4), **SHARED, hidden=0)
