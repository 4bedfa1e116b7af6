"""FCFD: its terms by hand, its paths, and the parameters they train."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs import job
from helpers.outputs import batch_of, context_of
from torch import Tensor, nn
from torch.nn import functional as F

from kd_bench.interfaces import LossContext, UserError
from kd_bench.jobs.validate import validate_job
from kd_bench.methods.fcfd import FunctionConsistency
from kd_bench.models.features import FeatureExtractor, probe_shapes
from kd_bench.models.resnet import ResNet
from kd_bench.training.step import networks_of

STAGES = ("stage1", "stage2", "stage3")
B, K, SIZE, T = 4, 5, (8, 8), 4.0


class Pair:
    """A small student, a wider teacher, and their outputs for one step."""

    def __init__(self, paths: int = 4):
        torch.manual_seed(0)
        nets = ResNet(K, 8, [8, 8, 8, 16]), ResNet(K, 8, [8, 12, 12, 24]).eval()
        names = "small", "large"
        shapes = [probe_shapes(n, n.stages, SIZE, x) for n, x in zip(nets, names, strict=True)]
        self.context = LossContext(*shapes, K, torch.arange(8) % K, epochs=1)
        self.student, self.teacher = (FeatureExtractor(n, n.stages, STAGES, "") for n in nets)
        self.teacher.requires_grad_(False)
        self.loss = FunctionConsistency(self.context, T, STAGES, paths)
        self.image = torch.randn(B, 3, *SIZE)
        self.networks = networks_of(self.student, self.student, self.teacher, self.teacher)
        self.outputs = self.student(self.image), self.teacher(self.image)

    def terms(self) -> dict[str, Tensor]:
        return self.loss(*self.outputs, batch_of(self.context, B), self.networks)


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """T^2 KL of softened predictions, mean over images, by PyTorch."""
    log_q, p = (student / T).log_softmax(1), (teacher / T).softmax(1)
    return T**2 * F.kl_div(log_q, p, reduction="batchmean")


def test_terms_match_running_each_layer_by_hand():
    pair = Pair()
    (student, teacher), loss = pair.outputs, pair.loss
    s, t = student.features, teacher.features
    net_s, net_t = pair.student.net, pair.teacher.net
    bridged = {stage: loss.to_teacher[stage](s[stage]) for stage in STAGES}
    pooled = [F.adaptive_avg_pool2d(x.relu(), 1) for x in (bridged["stage3"], t["stage3"])]
    appearance = sum(F.mse_loss(bridged[x], t[x]) for x in STAGES) + F.mse_loss(*pooled)

    second = net_t.layer2(bridged["stage1"])
    third = net_t.layer3(second), net_t.layer3(bridged["stage2"])
    function = F.mse_loss(second, t["stage2"])
    mixed = torch.zeros(())
    for last in third:
        function = function + F.mse_loss(last, t["stage3"])
        function = function + F.mse_loss(last.mean((2, 3)), t["stage3"].mean((2, 3)))
        mixed = mixed + kl(teacher.logits, net_t.fc(last.mean((2, 3))))
    first, middle = (loss.to_student[x](t[x]) for x in ("stage1", "stage2"))
    for last in (net_s.layer3(net_s.layer2(first)), net_s.layer3(middle)):
        mixed = mixed + kl(teacher.logits, net_s.fc(last.mean((2, 3))))
    expected = {
        "soft": kl(teacher.logits, student.logits),
        "appearance": appearance,
        "function": function,
        "mixed": mixed,
    }
    for name, term in pair.terms().items():
        torch.testing.assert_close(term, expected[name])


def test_a_step_draws_the_given_number_of_paths_uniformly():
    loss = Pair(paths=2).loss
    drawn = [loss._drawn() for _ in range(400)]
    assert all(len(set(paths)) == 2 for paths in drawn)
    counts = {}
    for path in (path for paths in drawn for path in paths):
        counts[path] = counts.get(path, 0) + 1
    assert counts.keys() == {(s, to) for s in ("stage1", "stage2") for to in (True, False)}
    assert all(160 <= count <= 240 for count in counts.values())  # 200, standard deviation 10


def test_without_paths_only_the_appearance_term_is_added_to_distillation():
    pair = Pair(paths=0)
    terms = pair.terms()
    assert terms["function"].item() == terms["mixed"].item() == 0
    sum(terms.values()).backward()
    assert all(p.grad is None for p in pair.loss.to_student.parameters())


def test_gradients_reach_student_and_bridges_but_not_the_teacher():
    pair = Pair()
    pair.terms()["mixed"].backward()
    assert all(p.grad.any() for p in pair.loss.to_student.parameters())
    assert all(
        p.grad.any() for s in ("stage1", "stage2") for p in pair.loss.to_teacher[s].parameters()
    )
    assert pair.student.net.layer3[0].conv1.weight.grad.any()  # paths through the student's layers
    assert pair.student.net.conv1.weight.grad.any()  # paths through the teacher's layers
    assert all(p.grad is None for p in pair.teacher.parameters())


def test_mixed_paths_do_not_change_the_statistics_of_either_network():
    pair = Pair()
    before = [b.clone() for net in (pair.student, pair.teacher) for b in net.buffers()]
    pair.terms()
    after = [b for net in (pair.student, pair.teacher) for b in net.buffers()]
    assert all(map(torch.equal, before, after))


def test_equal_networks_with_identity_bridges_have_zero_loss():
    pair = Pair()
    pair.loss.to_teacher = nn.ModuleDict({stage: nn.Identity() for stage in STAGES})
    pair.loss.to_student = nn.ModuleDict({stage: nn.Identity() for stage in STAGES[:-1]})
    own = pair.teacher
    pair.networks, pair.outputs = networks_of(own, own, own, own), (own(pair.image),) * 2
    assert [term.item() for term in pair.terms().values()] == pytest.approx([0] * 4, abs=1e-6)


@pytest.mark.parametrize(
    ("student", "teacher", "kind"),
    [
        ((8, 8), (8, 8), nn.Conv2d),
        ((8, 8), (4, 4), nn.Conv2d),
        ((4, 4), (8, 8), nn.ConvTranspose2d),
    ],
)
def test_bridges_keep_halve_or_double_a_map(student, teacher, kind):
    stages = [{"stage1": (3, *size), "stage2": (3, 2, 2)} for size in (student, teacher)]
    loss = FunctionConsistency(context_of(*stages), T, ["stage1", "stage2"], 1)
    there, back = loss.to_teacher["stage1"], loss.to_student["stage1"]
    assert isinstance(there[0], kind)
    assert there(torch.randn(2, 3, *student)).shape[2:] == teacher
    assert back(torch.randn(2, 3, *teacher)).shape[2:] == student


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stages": ["stage1"]}, "stages must be two or more, got stage1"),
        ({"paths": 3}, "paths must be from 0 to 2, got 3"),
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(changed, message):
    stages = {"stage1": (3, 4, 4), "stage2": (3, 2, 2)}
    values = {"temperature": T, "stages": ["stage1", "stage2"], "paths": 1}
    with pytest.raises(UserError, match=message):
        FunctionConsistency(context_of(stages, stages), **(values | changed))


def test_maps_of_incompatible_sizes_are_refused_with_both_sizes():
    small, large = ({"stage1": (3, n, n), "stage2": (3, 2, 2)} for n in (5, 7))
    with pytest.raises(UserError, match="stage1 is 5x5 in small and 7x7 in large"):
        FunctionConsistency(context_of(small, large), T, ["stage1", "stage2"], 1)


def test_a_network_that_cannot_be_cut_is_refused_before_training(tmp_path, monkeypatch):
    validate_job(job(tmp_path, "method=fcfd"))
    forward = ResNet.forward
    monkeypatch.setattr(ResNet, "forward", lambda net, x: forward(net, x) + x.mean())
    with pytest.raises(UserError, match="cannot be cut at stage 'stage1': its later layers"):
        validate_job(job(tmp_path, "method=fcfd"))
