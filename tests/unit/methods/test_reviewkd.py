"""ReviewKD: the pyramid of averages by hand, and the fusion compared with the formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor

from kd_bench.interfaces import LossContext, Output, UserError
from kd_bench.methods.reviewkd import AttentionFusion, KnowledgeReview, hierarchical_distance


def network(one: tuple[int, ...], two: tuple[int, ...], pooled: int) -> dict[str, tuple[int, ...]]:
    return {"stage1": one, "stage1_pre": one, "stage2": two, "stage2_pre": two, "pooled": (pooled,)}


CONTEXT = context_of(network((2, 4, 4), (3, 2, 2), 3), network((4, 8, 8), (5, 2, 2), 6))


def make(context: LossContext = CONTEXT) -> KnowledgeReview:
    torch.manual_seed(0)
    return KnowledgeReview(context, ["stage1", "stage2"])


def outputs(size: int, seed: int = 0) -> tuple[Output, Output]:
    both = ((CONTEXT.student, seed), (CONTEXT.teacher, seed + 50))
    return tuple(
        output_of(**{s: rand(size, *x, seed=first + i) for i, (s, x) in enumerate(net.items())})
        for net, first in both
    )


# --- the distance -----------------------------------------------------------------------------


def test_a_distance_by_hand():
    # One error of 1 in four positions: 1/4, and (1/4)^2 after averaging, with half the weight:
    # (1/4 + 1/32) / (3/2) = 3/16
    error = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert hierarchical_distance(error, torch.zeros(1, 1, 2, 2)).tolist() == [3 / 16]


def test_four_levels_have_weights_one_to_an_eighth():
    student, teacher = rand(2, 3, 8, 8), rand(2, 3, 8, 8, seed=1)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        value = 0.0
        for weight, size in ((1.0, 8), (0.5, 4), (0.25, 2), (0.125, 1)):
            d = F.adaptive_avg_pool2d(s, size) - F.adaptive_avg_pool2d(t, size)
            value += weight * d.pow(2).mean().item() / 1.875
        expected.append(value)
    assert hierarchical_distance(student, teacher).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 7), (8, 8)])
def test_the_distance_of_a_constant_error_is_its_square_at_any_size(size):
    teacher = rand(2, 3, *size)
    distance = hierarchical_distance(teacher + 3, teacher)
    torch.testing.assert_close(distance, torch.full_like(distance, 9.0))


# --- the fusion -------------------------------------------------------------------------------


def test_the_deeper_map_is_upsampled_and_each_map_has_a_weight_map():
    # With zero weights of the convolution: sigmoid(ln 3) = 3/4 for x, sigmoid(0) = 1/2 for y.
    fuse = AttentionFusion(1)
    fuse.attention.weight.data.zero_()
    fuse.attention.bias.data = torch.tensor([3.0, 1.0]).log()
    x, y = torch.tensor([[[[4.0, 8.0]]]]), torch.tensor([[[[2.0]]]])
    assert fuse(x, y).flatten().tolist() == pytest.approx([3 + 1, 6 + 1])


def by_formula(loss: KnowledgeReview, student: Output, teacher: Output) -> Tensor:
    """The fusion of two stages and the pooled features, from the loss's weights."""

    def layer(module, x: Tensor) -> Tensor:
        kernel = module[0].weight
        x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        return F.batch_norm(x, None, None, training=True, eps=1e-5)

    s, t = student.features, teacher.features
    pooled = layer(loss.reduce["pooled"], s["pooled"].view(-1, 3, 1, 1))
    distance = (layer(loss.expand["pooled"], pooled)[:, :, 0, 0] - t["pooled"]).pow(2).mean(1)
    deeper = pooled
    for stage, own, wanted in (("stage2", 2, 2), ("stage1", 4, 8)):
        x = layer(loss.reduce[stage], s[stage])
        deeper = deeper.repeat_interleave(own // deeper.shape[-1], 2)
        deeper = deeper.repeat_interleave(own // deeper.shape[-1], 3)
        convolution = loss.fuse[stage].attention
        weight, bias = convolution.weight[:, :, 0, 0], convolution.bias.view(1, 2, 1, 1)
        share = torch.einsum("oc,bchw->bohw", weight, torch.cat([x, deeper], 1)) + bias
        deeper = share[:, :1].sigmoid() * x + share[:, 1:].sigmoid() * deeper
        times = wanted // own
        deeper = deeper.repeat_interleave(times, 2).repeat_interleave(times, 3)
        fitted = layer(loss.expand[stage], deeper)
        distance = distance + hierarchical_distance(fitted, t[f"{stage}_pre"])
    return distance


def test_the_loss_is_the_sum_over_stages_of_fused_maps():
    loss, (student, teacher) = make().double(), outputs(3)
    value = loss.per_image(student, teacher, batch_of(CONTEXT, 3))
    torch.testing.assert_close(value, by_formula(loss, student, teacher))


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("stage1_pre", {"stage1", "stage2", "pooled"}),
        ("stage2_pre", {"stage2", "pooled"}),
        ("pooled", {"pooled"}),
    ],
)
def test_a_stage_of_the_teacher_is_compared_with_the_students_deeper_ones(target, read):
    # Another target changes only the gradient of its own distance.
    loss, (student, teacher), batch = make().double(), outputs(3), batch_of(CONTEXT, 3)
    leaves = [student.features[s].requires_grad_() for s in ("stage1", "stage2", "pooled")]
    first = loss(student, teacher, batch)
    teacher.features[target] = teacher.features[target].flip(0)
    pulls = torch.autograd.grad(loss(student, teacher, batch) - first, leaves)
    moved = [pull.abs().max().item() > 1e-9 for pull in pulls]
    assert moved == [s in read for s in ("stage1", "stage2", "pooled")]


def test_a_wide_student_is_fused_with_at_most_512_channels():
    wide = context_of(network((2, 2, 2), (3, 1, 1), 600), network((4, 2, 2), (5, 1, 1), 6))
    assert make(wide).reduce["pooled"][0].out_channels == 512
    assert make().reduce["stage1"][0].out_channels == 3


def test_a_batch_of_one_is_finite():
    value = make().double()(*outputs(1), batch_of(CONTEXT, 1))
    assert value.isfinite()


def test_a_stage_without_its_map_before_the_relu_is_refused():
    bare = context_of({"stage1": (2, 4, 4), "pooled": (3,)}, {"stage1": (2, 4, 4), "pooled": (3,)})
    with pytest.raises(UserError, match=r"^unknown stage 'stage1_pre' of small; choose from"):
        KnowledgeReview(bare, ["stage1"])
