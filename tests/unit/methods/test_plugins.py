"""The effect of plug-ins on a method's losses: order, weights, and losses they do not change."""

from dataclasses import replace

import pytest
import torch
from helpers.logit_losses import context, labelled
from helpers.logit_plugins import build, terms
from helpers.outputs import context_of, rand
from torch import nn

from kd_bench.interfaces import (
    LogitPair,
    LogitPlugin,
    Loss,
    Output,
    PerImageLoss,
    UserError,
)
from kd_bench.methods.common.method import Method
from kd_bench.methods.st import SoftTarget

BATCH = labelled(0, 1, 2)


class FirstLogits(PerImageLoss):
    """The teacher's first logit."""

    def per_image(self, student, teacher, batch):
        return teacher.logits[:, 0]


class Mean(Loss):
    """The same, but not per image."""

    def forward(self, student, teacher, batch):
        return teacher.logits[:, 0].mean()


class OfFeatures(Mean):
    """The same, but it reads features, too."""

    stages = ("pooled",)


class Plugin(LogitPlugin):
    """Applies a function to the pair."""

    def __init__(self, function, weights_images=False):
        super().__init__(None)
        self.function, self.weights_images, self.phase = function, weights_images, None

    def forward(self, pair, batch):
        return self.function(pair)

    def on_epoch_start(self, phase):
        self.phase = phase


def add(number):
    return Plugin(lambda pair: replace(pair, teacher=pair.teacher + number))


def times(factor):
    return Plugin(lambda pair: replace(pair, teacher=pair.teacher * factor))


def value(loss, **plugins):
    """The loss for a teacher whose first logits are 1, 2 and 6."""
    method = Method({"loss": loss(None)}, {"ce": 1, "loss": 1}, plugins=plugins)
    teacher = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 0.0]])
    batch = labelled(0, 1, 1)
    return method(Output(torch.zeros(3, 2)), Output(teacher), batch)["loss"].item()


def test_plugins_are_applied_in_the_order_in_which_they_are_listed():
    # The mean of 1, 2 and 6 is 3
    assert value(Mean, first=add(1.0), second=times(10.0)) == 40.0
    assert value(Mean, first=times(10.0), second=add(1.0)) == 31.0


def test_the_losses_of_several_pairs_are_added_up():
    twice = Plugin(lambda pair: [pair, replace(pair, teacher=2 * pair.teacher, weight=10.0)])
    assert value(Mean, twice=twice) == 3 + 10 * 6
    # each of the two is doubled again
    assert value(Mean, twice=twice, again=twice) == 3 + 60 + 60 + 10 * 12


def test_a_weight_may_be_a_number_on_the_device():
    assert value(Mean, heavy=Plugin(lambda pair: replace(pair, weight=torch.tensor(2.0)))) == 6.0


def test_image_weights_are_applied_before_the_mean():
    uneven = Plugin(lambda pair: replace(pair, weight=torch.tensor([3.0, 0.0, 1.0])), True)
    assert value(FirstLogits, uneven=uneven) == (3 + 0 + 6) / 3


def test_each_term_of_a_loss_is_weighted_and_added_up():
    student, teacher = rand(3, 10), rand(3, 10, seed=1)
    plain = terms(build("dkd", context(10)), student, teacher, BATCH)
    method = build("dkd", context(10))
    twice = Plugin(lambda pair: [pair, replace(pair, weight=torch.full((3,), 2.0))], True)
    method = Method(
        dict(method.losses), {"ce": 1, "dkd": {"target": 1, "rest": 1}}, plugins={"twice": twice}
    )
    for name, term in terms(method, student, teacher, BATCH).items():
        torch.testing.assert_close(term, plain[name] * (1 if name == "ce" else 3))


def test_losses_of_features_and_cross_entropy_are_not_changed():
    losses = {"plain": Mean(None), "features": OfFeatures(None)}
    weights = {"ce": 1, "plain": 1, "features": 1}
    far = Plugin(lambda pair: LogitPair(pair.student + rand(3, 2), pair.teacher + 100))
    outputs = Output(rand(3, 2)), Output(rand(3, 2, seed=1)), labelled(0, 1, 1)
    before = Method(losses, weights)(*outputs)
    after = Method(losses, weights, plugins={"far": far})(*outputs)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"plain"}


def test_without_plugins_the_losses_have_the_same_bits():
    student, teacher = rand(29, 10).float(), rand(29, 10, seed=1).float()
    batch = labelled(*(i % 10 for i in range(29)))
    method = Method({"st": SoftTarget(None, 3.0)}, {"ce": 1, "st": 1})
    whole = terms(method, student, teacher, batch)["st"]
    assert torch.equal(whole, SoftTarget(None, 3.0)(Output(student), Output(teacher), batch))
    assert list(method.state_dict()) == list(method.parameters()) == []


def test_a_phase_without_a_loss_of_logits_runs_no_plugin():
    def fail(pair):
        raise AssertionError

    losses = {"plain": Mean(None), "features": OfFeatures(None)}
    method = Method(
        losses, {"ce": 1, "plain": 1}, None, {"features": 1}, plugins={"fail": Plugin(fail)}
    )
    outputs = Output(rand(3, 2)), Output(rand(3, 2, seed=1)), labelled(0, 1, 1)
    assert list(method(*outputs, phase="init")) == ["features"]
    with pytest.raises(AssertionError):
        method(*outputs, phase="main")


@pytest.mark.parametrize("phase", ["init", "main"])
def test_a_plugin_is_notified_when_an_epoch_starts(phase):
    plugin = add(0.0)
    Method({"loss": Mean(None)}, {"ce": 1, "loss": 1}, plugins={"add": plugin}).on_epoch_start(
        phase
    )
    assert plugin.phase == phase


def test_a_method_is_safe_for_cuda_graphs_unless_a_plugin_is_not():
    plugin = add(0.0)
    method = Method({"loss": Mean(None)}, {"ce": 1, "loss": 1}, plugins={"add": plugin})
    assert method.cuda_graph_safe
    plugin.cuda_graph_safe = False
    assert not method.cuda_graph_safe


# Errors


def test_a_plugin_without_a_loss_of_logits_is_refused():
    with pytest.raises(UserError, match=r"plug-in 'add' has no effect, .* such as st or dkd$"):
        value(OfFeatures, add=add(1.0))


@pytest.mark.parametrize("name", ["baseline", "tfkd_reg", "dml", "sobolev", "bss", "at"])
def test_plugins_are_refused_if_no_loss_compares_only_logits_of_a_frozen_teacher(name):
    shapes = {f"stage{i}": (8, 4, 4) for i in (1, 2, 3)}
    with pytest.raises(UserError, match="plug-in 'swap' has no effect"):
        build(name, context_of(shapes, shapes, 10), "swap")


def test_image_weights_are_refused_for_a_loss_that_is_not_a_mean():
    even = Plugin(lambda pair: pair, weights_images=True)
    with pytest.raises(
        UserError, match="weights images, but loss 'loss' is not a mean over images"
    ):
        value(Mean, even=even)


def test_image_weights_must_be_declared():
    even = Plugin(lambda pair: replace(pair, weight=torch.ones(3)))
    with pytest.raises(UserError, match="weights_images = True"):
        value(Mean, even=even)


@pytest.mark.parametrize("junk", [None, [], torch.zeros(2), [None]], ids=repr)
def test_a_plugin_that_returns_no_pair_is_refused(junk):
    with pytest.raises(
        UserError, match=r"plug-in 'junk' \(.*test_plugins.py, line \d+\): forward must"
    ):
        value(Mean, junk=Plugin(lambda pair: junk))


def test_plugins_are_modules_of_the_method():
    plugin = add(0.0)
    plugin.scale = nn.Parameter(torch.ones(()))
    method = Method({"loss": Mean(None)}, {"ce": 1, "loss": 1}, plugins={"add": plugin})
    assert [name for name, _ in method.named_parameters()] == ["plugins.by_name.add.scale"]
