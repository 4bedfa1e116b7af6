"""OFD: pre-ReLU maps, with margins from the teacher's batch norm."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs import job
from helpers.maps import channels, without_adapter
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import nn

from kd_bench.interfaces import LossContext, UserError
from kd_bench.jobs import validate
from kd_bench.methods.ofd import FeatureOverhaul, negative_mean, partial_distance
from kd_bench.models.features import probe_shapes
from kd_bench.models.resnet import ResNet

MAPS = ["stage1", "stage2", "stage3"]
STAGES = {"stage1": (2, 2, 2), "stage1_pre": (2, 2, 2)}
BARE = context_of(STAGES, STAGES)
BATCH = batch_of(BARE, 2)


def pair(teacher: nn.Module | None = None, **changed: str) -> LossContext:
    """A small ResNet and its teacher, with changed stage paths."""
    torch.manual_seed(0)
    small, large = ResNet(3, 8, [2, 2, 4, 4]), teacher or ResNet(3, 14, [3, 3, 4, 6])
    return LossContext(
        student=probe_shapes(small, small.stages, (8, 8), "small"),
        teacher=probe_shapes(large, large.stages | changed, (8, 8), "large"),
        num_classes=3,
        labels=torch.arange(12) % 3,
        epochs=1,
        teacher_net=large,
    )


def norm(*rows: tuple[float, float]) -> nn.BatchNorm2d:
    """A batch norm with the given mean and standard deviation of each channel."""
    layer = nn.BatchNorm2d(len(rows))
    mean, deviation = zip(*rows, strict=True)
    layer.bias.data, layer.weight.data = torch.tensor(mean), torch.tensor(deviation)
    return layer


def test_the_margin_is_the_mean_of_the_negative_part():
    # Mean 0, deviation 1: -sqrt(2 / pi) = -0.797885. Mean 1, deviation 2: the density at 0.5 is
    # 0.352065 and the mass below -0.5 is 0.308538, so 1 - 2 · 0.352065 / 0.308538 = -1.282153; the
    # sign of a weight does not matter. Mean -10: nearly all values are negative, with mean -10.
    margin = negative_mean(norm((0.0, 1.0), (1.0, 2.0), (1.0, -2.0), (-10.0, 1.0)))
    assert margin.tolist() == pytest.approx([-0.797885, -1.282153, -1.282153, -10.0], abs=1e-5)


def test_the_margin_matches_monte_carlo_samples():
    draws = torch.randn(10**6, generator=torch.Generator().manual_seed(0)) * 1.5 + 0.7
    # The standard error is about 1e-3
    (margin,) = negative_mean(norm((0.7, 1.5))).tolist()
    assert margin == pytest.approx(draws[draws < 0].mean().item(), abs=5e-3)


def test_the_margin_is_three_deviations_if_almost_nothing_is_negative():
    # The 0.001 quantile is at -3.0902 standard deviations.
    assert negative_mean(norm((3.1, 1.0), (8.0, 2.0))).tolist() == [-3.0, -6.0]
    assert negative_mean(norm((3.08, 1.0))).item() > -0.3


def test_a_channel_without_variance_has_a_finite_margin():
    margin = negative_mean(norm((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0)))
    assert margin.tolist() == pytest.approx([0.0, 0.0, -1.0], abs=1e-6)


def test_values_that_the_relu_zeroes_in_both_are_ignored():
    # Student and target 2 and 1: 1. -1 and -2: 1. -3 and -2: nothing. -1 and 1: 4.
    student, target = channels([2.0, -1.0, -3.0, -1.0]), channels([1.0, -2.0, -2.0, 1.0])
    assert partial_distance(student, target).tolist() == [6.0]
    student = channels([-3.0, -2.0]).requires_grad_()
    (gradient,) = torch.autograd.grad(partial_distance(student, channels([-2.0, 0.0])), student)
    assert not gradient.any()


def test_the_margins_are_those_of_the_last_batch_norms_of_the_stages():
    teacher = ResNet(3, 14, [3, 3, 4, 6])
    for i, layer in enumerate((teacher.layer1, teacher.layer2, teacher.layer3)):
        nn.init.zeros_(layer[1].bn2.bias)
        nn.init.constant_(layer[1].bn2.weight, 1.0 + i)
        nn.init.constant_(layer[0].bn2.weight, 99.0)
    loss = FeatureOverhaul(pair(teacher), MAPS)
    margins = [loss.get_buffer(f"margin_{stage}") for stage in loss.stages]
    assert [tuple(margin.shape) for margin in margins] == [(3, 1, 1), (4, 1, 1), (6, 1, 1)]
    for i, margin in enumerate(margins):
        assert margin.flatten().tolist() == pytest.approx([-0.797885 * (1 + i)] * len(margin))


def test_stage_weights_are_a_quarter_a_half_and_one_and_images_are_averaged():
    # All values of the student are 1, the teacher's 0, above any margin: the sum of squares is the
    # number of values, 12, 8 and 6 in each of two images.
    loss = without_adapter(FeatureOverhaul(pair(), MAPS), "connectors")
    sizes = {"stage1_pre": (2, 3, 2, 2), "stage2_pre": (2, 4, 1, 2), "stage3_pre": (2, 6, 1, 1)}
    student = output_of(**{stage: torch.ones(size) for stage, size in sizes.items()})
    teacher = output_of(**{stage: torch.zeros(size) for stage, size in sizes.items()})
    assert loss(student, teacher, BATCH).item() == 12 / 4 + 8 / 2 + 6


def test_the_teachers_negatives_are_raised_to_the_margin():
    # Margin -0.797885, teacher -5, student -0.5, which is above: (0.797885 - 0.5)^2 = 0.088736
    loss = without_adapter(FeatureOverhaul(pair(), ["stage1"]), "connectors")
    student, teacher = (output_of(stage1_pre=torch.full((1, 3, 1, 1), x)) for x in (-0.5, -5.0))
    assert loss(student, teacher, BATCH).item() == pytest.approx(3 * 0.088736, abs=1e-5)


def test_each_value_is_one_of_three_cases():
    loss = without_adapter(FeatureOverhaul(pair(), ["stage1"]), "connectors")
    margin = loss.get_buffer("margin_stage1_pre").flatten().double()
    student, teacher = rand(2, 3, 2, 2) * 2, rand(2, 3, 2, 2, seed=1) * 2
    expected = 0.0
    for image in range(2):
        for c in range(3):
            for s, t in zip(student[image, c].flatten(), teacher[image, c].flatten(), strict=True):
                if t > 0:
                    expected += float(s - t) ** 2
                elif s > max(t, margin[c]):
                    expected += float(s - max(t, margin[c])) ** 2
    value = loss(output_of(stage1_pre=student), output_of(stage1_pre=teacher), BATCH)
    assert value.item() == pytest.approx(expected / 2)


def test_a_teacher_without_the_batch_norm_as_a_stage_is_refused():
    with pytest.raises(
        UserError, match=r"^unknown stage 'stage1_norm' of large; choose from stage1"
    ):
        FeatureOverhaul(BARE, ["stage1"])


def test_a_stage_that_is_not_a_batch_norm_is_refused():
    odd = pair(stage1_norm="layer1.1.conv2")
    with pytest.raises(UserError, match=r"'stage1_norm' of large; 'layer1.1.conv2' is a Conv2d$"):
        FeatureOverhaul(odd, ["stage1"])


@pytest.mark.slow
def test_a_job_is_validated_without_weights(tmp_path):
    validate.validate_job(job(tmp_path, "method=ofd"))


def test_margins_are_finite_for_any_batch_norm():
    steps = [(m, d) for m in (-1e4, -1.0, 0.0, 1.0, 1e4) for d in (0.0, 1e-8, 1.0, 1e4)]
    margins = negative_mean(norm(*steps))
    assert margins.isfinite().all()
    assert (margins <= 0).all()
