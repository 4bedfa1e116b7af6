"""SDD: cells by hand, the global average as a limit, complementary cells, and errors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.outputs import batch_of, context_of, rand
from torch import Tensor, nn

from kd_bench.interfaces import Batch, LossContext, Networks, Output, StageShapes, UserError
from kd_bench.methods.common.functional import soft_kl
from kd_bench.methods.sdd import ScaleDecoupled
from kd_bench.methods.st import SoftTarget
from kd_bench.models.features import FeatureExtractor, probe_shapes
from kd_bench.models.resnet import ResNet

PATHS = {"stage3": "layer3", "pooled": "fc:input"}


def shapes(name: str, channels: int, size: int = 4, **changed: str) -> StageShapes:
    stages = {"stage3": (channels, size, size), "pooled": (channels,)}
    return StageShapes(name, stages, PATHS | changed)


def context(student: StageShapes, teacher: StageShapes, classes: int = 4) -> LossContext:
    return replace(context_of({}, {}, classes), student=student, teacher=teacher)


CONTEXT = context(shapes("small", 4), shapes("large", 4))
UNCHANGED = Networks(lambda x: x, None, nn.Identity(), nn.Identity())  # channels are classes


def make(given: LossContext = CONTEXT, **changed) -> ScaleDecoupled:
    values = {"stage": "stage3", "scales": [1, 2], "temperature": 1.0, "complementary": 2.0}
    return ScaleDecoupled(given, **values | changed)


def network_output(features: Tensor, classifier: nn.Module | None = None) -> Output:
    pooled = features.mean((2, 3))
    return Output(classifier(pooled) if classifier else pooled, {"stage3": features})


def value(loss: ScaleDecoupled, student: Tensor, teacher: Tensor, target: list[int]) -> Tensor:
    label = torch.tensor(target)
    batch = Batch(torch.zeros(len(label), 3, 4, 4), label, label, torch.tensor(1.0))
    return loss(network_output(student), network_output(teacher), batch, UNCHANGED)


def test_cells_by_hand():
    # Two classes, one image of 2 x 2; the student is zero everywhere: uniform. The teacher's logits
    # for class 0 are 4a, 0, 0, 0 with a = ln 3, for class 1 zero. The mean, a, gives (3/4, 1/4),
    # 0.130812 from uniform. The first quarter gives 81/82; the others are uniform, and class 0 wins
    # the tie. All predict class 0, the label: weights 1.
    a = math.log(3)
    teacher = torch.tensor([[[[4 * a, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    given = context(shapes("small", 2, 2), shapes("large", 2, 2), classes=2)
    far = 81 / 82 * math.log(81 / 41) + 1 / 82 * math.log(1 / 41)
    loss = value(make(given), torch.zeros(1, 2, 2, 2), teacher, [0])
    assert loss.item() == pytest.approx((0.130812 + far) / 5, abs=1e-6)


def test_complementary_cells_have_a_larger_weight():
    # The teacher's left half predicts class 0, its right half class 1 with larger logits, and so
    # does the average. If the label is 0 or 1, either the left cells or the image are correct, but
    # not both; for label 2, neither is.
    teacher = torch.zeros(1, 4, 4, 4)
    teacher[:, 0, :, :2], teacher[:, 1, :, 2:] = 3.0, 5.0
    cells = [torch.tensor([[x, y, 0.0, 0.0]]) for x, y in ((1.5, 2.5), (3, 0), (0, 5))]
    whole, left, right = (soft_kl(torch.zeros(1, 4), cell, 1.0).item() for cell in cells)
    for label, weight in ((0, 3.0), (1, 3.0), (2, 1.0)):
        loss = value(make(complementary=3.0), torch.zeros(1, 4, 4, 4), teacher, [label])
        assert loss.item() == pytest.approx((whole + 2 * weight * left + 2 * right) / 5)


def test_with_only_the_whole_image_it_is_soft_target():
    student, teacher = rand(5, 4, 4, 4), rand(5, 4, 4, 4, seed=1)
    loss = value(make(scales=[1], temperature=3.0), student, teacher, [0, 1, 2, 3, 0])
    outputs = (network_output(x) for x in (student, teacher))
    expected = SoftTarget(CONTEXT, 3.0)(*outputs, batch_of(CONTEXT, 5))
    assert loss.item() == pytest.approx(expected.item())


def test_all_scales_are_equal_for_constant_maps():
    student, teacher = (x[:, :, None, None].expand(5, 4, 4, 4) for x in (rand(5, 4), rand(5, 4)))
    target = [0, 1, 2, 3, 0]
    one = value(make(scales=[1]), student, 2 * teacher, target)
    assert value(make(scales=[1, 2, 4]), student, 2 * teacher, target).item() == pytest.approx(
        one.item()
    )


def test_it_matches_a_slow_loop_over_cells():
    torch.manual_seed(0)
    fc = {name: nn.Linear(c, 4).double() for name, c in (("student", 3), ("teacher", 5))}
    given = context(shapes("small", 3, 4), shapes("large", 5, 8))
    maps = {"student": rand(6, 3, 4, 4), "teacher": 5 * rand(6, 5, 8, 8, seed=1)}
    outputs = {name: network_output(maps[name], fc[name]) for name in maps}
    batch = batch_of(given, 6)
    total = 0.0
    for i, label in enumerate(batch.target.tolist()):
        image_right = outputs["teacher"].logits[i].argmax() == label
        for scale, y, x in [(1, 0, 0), *((2, y, x) for y in range(2) for x in range(2))]:
            logits = {}
            for name, each in maps.items():
                side = each.shape[2] // scale
                cell = each[i, :, y * side : (y + 1) * side, x * side : (x + 1) * side]
                logits[name] = fc[name](cell.mean((1, 2)))[None]
            weight = 1.5 if (logits["teacher"].argmax() == label) != image_right else 1.0
            total += weight * 4 * soft_kl(logits["student"], logits["teacher"], 2.0).item()
    networks = Networks(lambda image: None, None, fc["student"], fc["teacher"])
    loss = make(given, temperature=2.0, complementary=1.5)
    both = outputs["student"], outputs["teacher"]
    assert loss(*both, batch, networks).item() == pytest.approx(total / (6 * 5))


def test_the_students_classifier_learns_from_cells():
    torch.manual_seed(0)
    small, large = (ResNet(4, 8, [2, 2, 4, width]) for width in (4, 6))
    given = context(
        *(probe_shapes(net, net.stages, (8, 8), name) for net, name in ((small, "s"), (large, "t")))
    )
    loss = make(given)
    student, teacher = (
        FeatureExtractor(net, net.stages, loss.stages, "net") for net in (small, large)
    )
    large.requires_grad_(False)
    images, batch = rand(4, 3, 8, 8).float(), batch_of(given, 4)
    networks = Networks(student, teacher, student.classifier, teacher.classifier)
    out = student(images)
    out.features["stage3"] = out.features["stage3"].detach()
    loss(out, teacher(images), batch, networks).backward()
    assert small.fc.weight.grad.any()
    assert large.fc.weight.grad is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scales": [1, 8]}, r"numbers up to 4, the size of stage3 of small; got \[1, 8\]"),
        ({"scales": []}, r"scales must be a list such as \[1, 2\]"),
        ({"scales": 2}, r"scales must be a list such as \[1, 2\]"),
        ({"scales": [0]}, r"scales must be a list such as \[1, 2\]"),
        ({"temperature": 0.0}, "temperature must be a number above 0"),
        ({"complementary": 0.0}, "complementary must be a number above 0"),
        ({"stage": "stage9"}, "unknown stage 'stage9' of small"),
    ],
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(UserError, match=message):
        make(**changed)


def test_a_network_that_classifies_another_map_is_refused():
    other = StageShapes("wide", {"stage3": (4, 4, 4), "pooled": (8,)}, PATHS)
    message = "wide has 4 channels at stage3 and 8 at pooled"
    with pytest.raises(UserError, match=message):
        make(context(shapes("small", 4), other))


def test_a_network_without_a_known_classifier_is_refused():
    with pytest.raises(UserError, match="'pooled' of small must be its classifier's input"):
        make(context(shapes("small", 4, pooled="avgpool"), shapes("large", 4)))


def test_subclasses_may_use_another_distance():
    class Squared(ScaleDecoupled):
        def distance(self, student, teacher, target):
            return (student - teacher).square().sum(1) + 0 * target

    loss = Squared(CONTEXT, "stage3", [2], temperature=1.0, complementary=1.0)
    student, teacher = rand(4, 4, 4, 4), rand(4, 4, 4, 4, seed=1)
    cells = [nn.functional.avg_pool2d(x, 2) for x in (student, teacher)]
    expected = (cells[0] - cells[1]).square().sum(1).mean()
    assert value(loss, student, teacher, [0, 1, 2, 3]).item() == pytest.approx(expected.item())
