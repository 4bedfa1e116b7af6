"""SGD, AdamW and LAMB: by hand, against PyTorch and timm, without decay of vectors, resumed."""

import pytest
import torch

from kd_bench.config.schema import OptimizerName, RecipeConfig
from kd_bench.training import cuda_graph
from kd_bench.training.optimization import optim


def recipe(**changes):
    values = {"name": "r", "epochs": 4, "batch_size": 2, "lr": 0.1, **changes}
    return RecipeConfig(**values)


def test_sgd_matches_the_textbook():
    # theta = 1, gradient 2, rate 0.1, momentum 0.9, weight decay 0.5:
    #   g = 2 + 0.5 * 1 = 2.5;  v = 2.5;        theta = 1 - 0.25 = 0.75
    #   g = 2 + 0.5 * 0.75 = 2.375;  v = 0.9 * 2.5 + 2.375 = 4.625;  rate 0.01: theta = 0.70375
    for fused in (True, False):
        theta = torch.nn.Parameter(torch.ones(1))
        sgd = optim.SGD([theta], recipe(weight_decay=0.5), fused=fused)
        for rate, expected in ((0.1, 0.75), (0.01, 0.70375)):
            sgd.rate.fill_(rate)
            theta.grad = torch.tensor([2.0])
            sgd.step()
            assert theta.item() == pytest.approx(expected, rel=1e-6)


def take_equal_steps(ours, mine, theirs, reference):
    """Take four steps with both optimizers and equal gradients, and compare all bits."""
    for _ in range(4):
        ours.grad = torch.randn(5, 7)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{}, {"nesterov": True}, {"weight_decay": 0.1}, {"momentum": 0.0}],
    ids=lambda changes: ", ".join(changes) or "plain",
)
def test_sgd_equals_pytorch_bitwise(changes, fused):
    torch.manual_seed(0)
    start, rule = torch.randn(5, 7), recipe(**changes)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = optim.SGD([ours], rule, fused=fused)
    reference = torch.optim.SGD(
        [theirs],
        lr=torch.tensor(rule.lr),
        momentum=rule.momentum,
        nesterov=rule.nesterov,
        weight_decay=rule.weight_decay,
        fused=fused,
        foreach=False,
    )
    take_equal_steps(ours, mine, theirs, reference)


def test_sgd_resumes_and_skips_parameters_without_gradient():
    torch.manual_seed(0)
    moved, still = (torch.nn.Parameter(torch.randn(3)) for _ in range(2))
    before = still.detach().clone()
    sgd = optim.SGD([moved, still], recipe(weight_decay=0.1), fused=True)
    moved.grad = torch.randn(3)
    sgd.step()
    assert torch.equal(still, before)
    other = optim.SGD([moved, still], recipe(weight_decay=0.1), fused=True)
    other.load_state_dict(sgd.state_dict())
    assert torch.equal(other.momentum[0], sgd.momentum[0])
    sgd.zero_grad()
    assert moved.grad is None


def adamw(**changes):
    return recipe(optimizer=OptimizerName.adamw, **changes)


def test_adamw_matches_the_textbook():
    # theta = 1, gradient 2, rate 0.1, decay 0.5, beta1 0.9, beta2 0.999; theta decays by 0.1 * 0.5:
    #   m = 0.2, v = 0.004; unbiased 2 and 4;  theta = 0.95 - 0.1 * 2 / 2 = 0.85
    # gradient 0, rate 0.01:
    #   m = 0.18, v = 0.003996; unbiased 0.18 / 0.19 and 0.003996 / 0.001999
    #   theta = 0.85 * 0.995 - 0.01 * 0.947368 / 1.413859 = 0.8390494
    for fused in (True, False):
        theta = torch.nn.Parameter(torch.ones(1))
        optimizer = optim.make_optimizer([theta], adamw(weight_decay=0.5), fused=fused)
        for rate, gradient, expected in ((0.1, 2.0, 0.85), (0.01, 0.0, 0.8390494)):
            optimizer.rate.fill_(rate)
            theta.grad = torch.tensor([gradient])
            optimizer.step()
            assert theta.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("changes", [{}, {"momentum": 0.8}, {"weight_decay": 0.1}], ids=str)
def test_adamw_equals_pytorch_bitwise(changes, fused):
    torch.manual_seed(0)
    start, rule = torch.randn(5, 7), adamw(**changes)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = optim.AdamW([ours], rule, fused=fused)
    reference = torch.optim.AdamW(
        [theirs],
        lr=torch.tensor(rule.lr),
        betas=(rule.momentum, 0.999),
        weight_decay=rule.weight_decay,
        fused=fused,
        foreach=False,
    )
    take_equal_steps(ours, mine, theirs, reference)


def test_adamw_counts_steps_for_each_parameter():
    torch.manual_seed(0)
    moved, still = (torch.nn.Parameter(torch.randn(3)) for _ in range(2))
    before = still.detach().clone()
    one = optim.AdamW([moved, still], adamw(weight_decay=0.1), fused=True)
    moved.grad = torch.randn(3)
    one.step(), one.step()
    assert torch.equal(still, before)
    # Its first step is that of a new optimizer.
    still.grad = torch.ones(3)
    one.step()
    torch.testing.assert_close(still.detach(), before * 0.99 - 0.1)


@pytest.mark.parametrize("name", OptimizerName)
def test_vectors_do_not_decay_unless_the_recipe_says_so(name):
    # With a gradient of zero, a step is only decay: by rate * decay = 0.1 * 0.5 or, with LAMB,
    # whose step has the norm of the parameter times the rate, by 0.1.
    layer, decayed = torch.nn.Linear(2, 3), 0.9 if name is OptimizerName.lamb else 0.95
    for decay_vectors, factor in ((True, decayed), (False, 1.0)):
        values = recipe(optimizer=name, weight_decay=0.5, decay_vectors=decay_vectors, momentum=0.0)
        optimizer = optim.make_optimizer(layer.parameters(), values, fused=True)
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), decayed * weight)
        torch.testing.assert_close(layer.bias.detach(), factor * bias)


def test_an_update_uses_the_mean_of_the_accumulated_gradients():
    # Gradients 2 and 4, mean 3, rate 0.1: theta = 1 - 0.3 = 0.7; then only 1: 0.7 - 0.1 = 0.6.
    theta, still = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    sgd = optim.SGD([theta, still], recipe(accumulate=2, momentum=0.0), fused=True)
    for gradient, batches, is_last, expected in (
        (2.0, 2, False, None),
        (4.0, 2, True, 0.7),
        (1.0, 1, True, 0.6),
    ):
        sgd.backward(gradient * theta.sum(), [])
        sgd.accumulate(batches, is_last=is_last)
        if is_last:
            sgd.step()
            assert theta.item() == pytest.approx(expected)
    assert still.item() == 1.0


def test_a_gradient_of_an_early_batch_alone_is_part_of_its_own_update():
    # Theta's gradients are 2 and none, none and none, none and 4; rate 0.1, decay 0.5:
    # 1 - 0.1 * (1 + 0.5) = 0.85; no update; 0.85 - 0.1 * (2 + 0.425) = 0.6075.
    theta, other = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    rule = recipe(accumulate=2, momentum=0.0, weight_decay=0.5)
    sgd = optim.SGD([theta, other], rule, fused=True)
    for gradients, expected in (((2, 0), 0.85), ((0, 0), 0.85), ((0, 4), 0.6075)):
        for gradient, is_last in zip(gradients, (False, True), strict=True):
            total = other.sum() + gradient * theta.sum() if gradient else other.sum()
            sgd.backward(total, [])
            sgd.accumulate(2, is_last=is_last)
        sgd.step()
        assert theta.item() == pytest.approx(expected)
        assert not any(each.any() for each in sgd.accumulated)


def test_an_update_that_is_warmed_up_for_a_capture_keeps_the_gradients_of_early_batches():
    # As in a step that is captured: the last batch runs again and again from the same state.
    theta, other = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    sgd = optim.SGD([theta, other], recipe(accumulate=2, momentum=0.0), fused=True)
    sgd.backward(2 * theta.sum() + other.sum(), [])
    sgd.accumulate(2, is_last=False)
    for _ in range(2):
        with cuda_graph.restore_after([*sgd.accumulated]):
            sgd.backward(other.sum(), [])
            sgd.accumulate(2, is_last=True)
            assert theta.grad.item() == 1.0


def lamb(**changes):
    return recipe(optimizer=OptimizerName.lamb, **changes)


def test_lamb_matches_the_textbook():
    # theta = (3, 4), gradient (0.6, 0), rate 0.1, decay 0.5: m and v are unbiased 0.6 and 0.36, so
    # Adam's update is (1, 0); with decay (2.5, 2), of norm sqrt(10.25), and theta's norm is 5:
    #   theta = (3, 4) - 0.1 * 5 / sqrt(10.25) * (2.5, 2) = (2.609567, 3.687654)
    theta = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = optim.make_optimizer([theta], lamb(weight_decay=0.5), fused=False)
    theta.grad = torch.tensor([0.6, 0.0])
    optimizer.step()
    assert theta.tolist() == pytest.approx([2.609567, 3.687654], rel=1e-5)


def test_lamb_moves_a_zero_parameter_by_adams_update():
    theta = torch.nn.Parameter(torch.zeros(2))
    optimizer = optim.make_optimizer([theta], lamb(weight_decay=0.5), fused=False)
    theta.grad = torch.tensor([0.6, -0.2])
    optimizer.step()
    assert theta.tolist() == pytest.approx([-0.1, 0.1], rel=1e-4)


@pytest.mark.parametrize("scale", [0.01, 3.0], ids=["small", "clipped"])
def test_lamb_equals_timms(scale):
    pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
    timm = pytest.importorskip("timm.optim", reason="timm is not installed: pip install timm")
    torch.manual_seed(0)
    start, rule = (torch.randn(5, 7), torch.randn(7)), lamb(weight_decay=0.1, decay_vectors=False)
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    mine = optim.make_optimizer(ours, rule, fused=True)
    groups = [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:]}]
    reference = timm.Lamb(groups, lr=rule.lr, weight_decay=0.0)
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = scale * torch.randn(one.shape)
            other.grad = one.grad.clone()
        mine.step()
        reference.step()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("recipe_of", [adamw, lamb])
def test_it_resumes_to_equal_bits_and_skips_parameters_without_gradient(recipe_of):
    torch.manual_seed(0)
    moved, still = (torch.nn.Parameter(torch.randn(3)) for _ in range(2))
    before = still.detach().clone()
    one = optim.make_optimizer([moved, still], recipe_of(weight_decay=0.1), fused=True)
    moved.grad = torch.randn(3)
    one.step()
    assert torch.equal(still, before)
    copied = torch.nn.Parameter(moved.detach().clone())
    other = optim.make_optimizer([copied, still], recipe_of(weight_decay=0.1), fused=True)
    other.load_state_dict(one.state_dict())
    moved.grad = torch.randn(3)
    copied.grad = moved.grad.clone()
    one.step()
    other.step()
    assert torch.equal(moved, copied)
