"""An ensemble's prediction is the mean of its networks' probabilities or logits."""

import pytest
import torch
from torch import Tensor, nn

from kd_bench.models.ensemble import Ensemble
from kd_bench.models.frozen import fold_batchnorm
from kd_bench.models.resnet import ResNet

IMAGE = torch.zeros(1, 3, 8, 8)


class Constant(nn.Module):
    """A network that gives the same logits for every image."""

    def __init__(self, *logits: float):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, image: Tensor) -> Tensor:
        return self.logits.expand(len(image), -1)


def test_the_mean_of_probabilities_by_hand():
    # softmax(ln 3, 0) = (3/4, 1/4) and softmax(0, ln 9) = (1/10, 9/10); their mean is
    # (17/40, 23/40), whose logarithms are the logits
    three, nine = torch.log(torch.tensor([3.0, 9.0])).tolist()
    ensemble = Ensemble([Constant(three, 0.0), Constant(0.0, nine)], of_logits=False)
    expected = torch.tensor([[17 / 40, 23 / 40]]).log()
    torch.testing.assert_close(ensemble(IMAGE), expected)


def test_the_mean_of_logits_by_hand():
    ensemble = Ensemble(
        [Constant(1.0, 0.0), Constant(3.0, -2.0), Constant(2.0, 5.0)], of_logits=True
    )
    torch.testing.assert_close(ensemble(IMAGE), torch.tensor([[2.0, 1.0]]))


@pytest.mark.parametrize("of_logits", [False, True])
def test_confident_networks_that_disagree_have_finite_mean_logits(of_logits):
    ensemble = Ensemble([Constant(1e4, -1e4), Constant(-1e4, 1e4)], of_logits=of_logits)
    torch.testing.assert_close(ensemble(IMAGE).softmax(1), torch.full((1, 2), 0.5))
    assert ensemble(IMAGE).isfinite().all()


def test_the_mean_of_equal_networks_is_that_of_one():
    one = Constant(2.0, -1.0, 0.5)
    mean = Ensemble([one, one, one], of_logits=False)(IMAGE)
    torch.testing.assert_close(mean, one(IMAGE).log_softmax(1))


def test_batch_norm_is_folded_in_every_network():
    torch.manual_seed(0)
    nets = [ResNet(4, 8, [8, 8, 8, 8]) for _ in range(2)]
    for net in nets:
        net(torch.randn(16, 3, 8, 8))  # batch statistics
    ensemble = Ensemble(nets, of_logits=False).eval()
    folded = fold_batchnorm(ensemble)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    image = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(folded(image), ensemble(image), rtol=1e-4, atol=1e-5)
