"""SGD: by hand, against PyTorch's, and resumed."""

import pytest
import torch

from kd_bench.config.schema import RecipeConfig
from kd_bench.training import optim


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
    for _ in range(4):
        ours.grad = torch.randn(5, 7)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
        assert torch.equal(ours, theirs)


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
