"""Terms, weights, ramps and phases of a method."""

from dataclasses import replace

import pytest
import torch

from kd_bench.interfaces import Batch, Loss, Networks, Output
from kd_bench.methods.common.label_loss import LabelLoss
from kd_bench.methods.common.method import Method, flatten_weights
from kd_bench.utils.errors import UserError


class Constant(Loss):
    def __init__(self, value, stages=()):
        super().__init__(None)
        self.value, self.stages, self.phase = value, stages, None

    def forward(self, student, teacher, batch):
        return torch.tensor(self.value)

    def on_epoch_start(self, phase):
        self.phase = phase


class Pair(Loss):
    terms = ("a", "b")
    needs_teacher = False

    def __init__(self):
        super().__init__(None)

    def forward(self, student, teacher, batch):
        return {"a": torch.tensor(3.0), "b": torch.tensor(5.0)}


def batch(epoch=1.0):
    return Batch(
        torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), torch.arange(2), torch.tensor(epoch)
    )


def uniform():
    return Output(torch.zeros(2, 4))  # four classes, all equally likely: cross entropy ln 4


def test_the_total_is_the_weighted_sum_of_the_terms():
    method = Method(
        {"c": Constant(2.0), "p": Pair()}, {"ce": 0.5, "c": 10, "p": {"a": 1.0, "b": 100.0}}
    )
    terms = method(uniform(), uniform(), batch())
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"ce": 1.3862944, "c": 2.0, "p/a": 3.0, "p/b": 5.0}
    )
    # 0.5 ln 4 + 10 * 2 + 1 * 3 + 100 * 5
    assert method.total(terms, torch.tensor(1.0)).item() == pytest.approx(0.6931472 + 523)


def test_labels_are_smoothed_over_all_classes_also_when_mixed():
    p = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
    out = Output(p.log().expand(2, 4))
    method = Method({}, {"ce": 1.0}, label_loss=LabelLoss(smoothing=0.2))
    # -log2 p = 1, 2, 3, 3. The labels are 0 and 1: 0.8 * 1 + 0.05 * 9 and 0.8 * 2 + 0.05 * 9
    value = method(out, None, batch())["ce"]
    assert value.item() == pytest.approx((1.25 + 2.05) / 2 * 0.6931472, rel=1e-5)
    shares = torch.tensor([[0.75, 0.25, 0.0, 0.0]]).expand(2, 4)
    # 0.75 of the first and 0.25 of the second
    mixed = method(out, None, replace(batch(), target=shares))["ce"]
    assert mixed.item() == pytest.approx((0.75 * 1.25 + 0.25 * 2.05) * 0.6931472, rel=1e-5)


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.25), (3, 0.75), (4, 1.0), (9, 1.0)])
def test_a_ramp_raises_a_weight_linearly(epoch, share):
    method = Method({"c": Constant(2.0)}, {"ce": 0, "c": 10.0}, {"c": 4})
    terms = method(uniform(), uniform(), batch(epoch))
    assert method.total(terms, torch.tensor(float(epoch))).item() == pytest.approx(20 * share)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"ce": 1, "c": 1, "x": 1}, "weight without a term: x; the terms are ce, c"),
        ({"ce": 1}, "term without a weight: c"),
        ({"c": 1}, "term without a weight: ce"),
        ({"ce": 1, "c": "much"}, "the weight of 'c' must be a number, got 'much'"),
        ({"ce": 1, "c": True}, "must be a number"),
        ({"ce": 1, "c": {"a": 1}}, "weight without a term: c/a"),
    ],
    ids=str,
)
def test_weights_must_match_terms(weights, message):
    with pytest.raises(UserError, match=message):
        Method({"c": Constant(1.0)}, weights)


@pytest.mark.parametrize("ramp", [{"x": 3}, {"c": 0}])
def test_a_ramp_with_an_unknown_term_or_no_epochs_is_refused(ramp):
    with pytest.raises(UserError, match="ramp_epochs"):
        Method({"c": Constant(1.0)}, {"ce": 1, "c": 1}, ramp)


def test_each_phase_computes_only_the_terms_with_weights():
    losses = {"first": Constant(2.0), "later": Constant(3.0)}
    method = Method(losses, {"ce": 1, "later": 1}, init_weights={"first": 7})
    terms = method(uniform(), uniform(), batch(), phase="init")
    assert list(terms) == list(method.weights_of("init")) == ["first"]
    assert method.total(terms, torch.tensor(1.0), phase="init").item() == 14
    terms = method(uniform(), uniform(), batch(), phase="main")
    assert list(terms) == list(method.weights_of("main")) == ["ce", "later"]
    # 1 ln 4 + 1 * 3
    assert method.total(terms, torch.tensor(1.0), phase="main").item() == pytest.approx(4.3862944)


@pytest.mark.parametrize("phase", ["init", "main"])
def test_every_loss_is_notified_when_an_epoch_starts(phase):
    losses = {"first": Constant(2.0), "later": Constant(3.0)}
    method = Method(losses, {"ce": 1, "later": 1}, init_weights={"first": 7})
    method.on_epoch_start(phase)
    assert [loss.phase for loss in losses.values()] == [phase, phase]


class Evaluating(Loss):
    """Runs both networks on other images, and requests a view."""

    needs_networks = True

    def __init__(self):
        super().__init__(None)

    def extra_views(self, image):
        return {"flipped": image.flip(3)}

    def forward(self, student, teacher, batch, networks):
        return networks.student(batch.image).logits.sum() - networks.teacher(2.0).logits.sum()


def test_views_per_step_counts_the_students_images_in_the_main_phase():
    losses = {"views": Evaluating(), "plain": Constant(2.0)}
    losses["views"].extra_student_images = 0.25
    image = torch.zeros(4, 3, 2, 2)
    weights = {"ce": 1, "views": 1, "plain": 1}
    # the images, as many flipped ones, and a quarter on which the loss itself runs the student
    assert Method(losses, weights).views_per_step(image) == 2.25
    only_first = Method(losses, {"ce": 1, "plain": 1}, init_weights={"views": 1})
    assert only_first.views_per_step(image) == 1


def test_a_loss_gets_the_networks_without_registering_their_parameters():
    net = torch.nn.Linear(1, 1)
    networks = Networks(
        lambda image: Output(net(image.flatten()[:1])), lambda x: Output(torch.ones(2))
    )
    method = Method({"e": Evaluating(), "c": Constant(1.0)}, {"ce": 1, "e": 1, "c": 1})
    terms = method(uniform(), uniform(), batch(), networks)
    assert terms["e"].item() == pytest.approx(net.bias.item() - 2)
    assert not list(method.parameters())


def test_only_the_losses_of_a_phase_request_views():
    losses = {"e": Evaluating(), "c": Constant(1.0)}
    method = Method(losses, {"ce": 1, "e": 1}, init_weights={"c": 1})
    image = batch().image
    assert method.extra_views(image, "init") == {}
    assert list(method.extra_views(image, "main")) == ["flipped"]


def test_a_method_lists_the_stages_of_its_losses_without_duplicates():
    method = Method(
        {"a": Constant(1.0, ("stage1", "pooled")), "b": Constant(1.0, ("pooled",)), "p": Pair()},
        {"ce": 1, "a": 1, "b": 1, "p": {"a": 1, "b": 1}},
    )
    assert method.stages == ("stage1", "pooled")


def test_nested_weights_are_flattened_to_term_names():
    assert flatten_weights({"ce": 1, "rkd": {"angle": 50}}) == {"ce": 1.0, "rkd/angle": 50.0}


class Returning(Loss):
    def __init__(self, value, terms=()):
        super().__init__(None)
        self.value, self.terms = value, terms

    def forward(self, student, teacher, batch):
        return self.value


ONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("loss", "answer"),
    [
        (Returning(torch.ones(2)), "not a tensor of 1 dimension, torch.float32; take its mean"),
        (Returning(torch.tensor(1)), "not a tensor of 0 dimensions, torch.int64$"),
        (Returning(0.5), "not a float; .item"),
        (Returning(None), "not None$"),
        (Returning({"a": ONE}), r"not a dict of a; or declare terms = \('a',\)"),
        (Returning(ONE, ("a", "b")), "a dict of the declared terms a, b, not a tensor"),
        (Returning({"a": ONE}, ("a", "b")), "terms a, b, not a dict of a$"),
        (Returning({"a": ONE, "b": ONE, "c": ONE}, ("a", "b")), "not a dict of a, b, c$"),
        (Returning({"a": ONE, "b": ONE.view(1)}, ("a", "b")), "each a scalar tensor, not a tensor"),
    ],
    ids=str,
)
def test_a_loss_must_return_its_declared_terms(loss, answer):
    method = Method({"x": loss}, {"ce": 1, "x": dict.fromkeys(loss.terms, 1) or 1})
    with pytest.raises(UserError, match=r"^loss 'x' .*test_method\.py, line \d+\): .*" + answer):
        method(uniform(), uniform(), batch())


def test_terms_without_a_weight_in_a_phase_may_be_left_out():
    loss = Returning({"a": ONE}, ("a", "b"))
    method = Method({"x": loss}, {"ce": 1, "x": {"a": 1, "b": 1}}, init_weights={"x": {"a": 1}})
    assert list(method(uniform(), uniform(), batch(), phase="init")) == ["x/a"]
