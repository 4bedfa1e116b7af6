"""WKD: transport on a line, Sinkhorn iterations in a loop, and normal distributions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.maps import channels, without_adapter
from helpers.outputs import (
    K,
    batch_of,
    context_of,
    is_finite_for_random_logits,
    output_of,
    passes_gradcheck,
    rand,
)
from torch import Tensor, nn
from torch.autograd import gradcheck

from kd_bench.interfaces import LossContext, StageShapes, UserError
from kd_bench.methods.wkd import (
    WassersteinFeatures,
    WassersteinLogits,
    class_distances,
    moments,
    transport_cost,
)

VALUES = {"temperature": 2.0, "sharpness": 1.0, "regularization": 0.05, "iterations": 10}


def context(classifier: nn.Module | None = None, path: str = "fc:input", classes: int = K):
    """A teacher that is only a classifier, by default a linear one with random weights."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"fc": classifier or nn.Linear(6, classes)})
    shapes = StageShapes("large", {"pooled": (6,)}, {"pooled": path})
    return replace(context_of({}, {}, classes), teacher=shapes, teacher_net=net)


CONTEXT = context()


def make(given: LossContext = CONTEXT, **changed: float) -> WassersteinLogits:
    return WassersteinLogits(given, **VALUES | changed)


def per_image(loss: WassersteinLogits, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    batch = batch_of(CONTEXT, len(student))
    loss.to(student.dtype)
    return loss.per_image(output_of(student), output_of(teacher), batch)


def distributions(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two distributions, and a mask with all classes."""
    everyone = torch.ones(shape, dtype=torch.double)
    return rand(*shape).softmax(1), rand(*shape, seed=1).softmax(1), everyone


def test_the_cost_is_that_of_transport_on_a_line():
    # Classes at 0, 1/8 .. 1/2: the least cost is the area between the cumulative distributions.
    place = torch.arange(5, dtype=torch.double) / 8
    cost = (place[:, None] - place).abs()
    p, q, everyone = distributions(4, 5)
    area = (p.cumsum(1) - q.cumsum(1)).abs()[:, :-1].sum(1) / 8
    torch.testing.assert_close(transport_cost(p, q, everyone, cost, 0.01, 1000), area)


def test_it_is_the_cost_of_the_sinkhorn_plan():
    p, q, everyone = distributions(1, 5)
    cost = class_distances(rand(5, 3, seed=2), 1.0)
    u = [1.0] * 5
    for _ in range(3):
        v = [q[0, j] / sum(u[i] * math.exp(-cost[i, j] / 0.1) for i in range(5)) for j in range(5)]
        u = [p[0, i] / sum(v[j] * math.exp(-cost[i, j] / 0.1) for j in range(5)) for i in range(5)]
    pairs = [(i, j) for i in range(5) for j in range(5)]
    expected = sum(u[i] * math.exp(-cost[i, j] / 0.1) * v[j] * cost[i, j] for i, j in pairs)
    value = transport_cost(p, q, everyone, cost, 0.1, 3)
    assert value.item() == pytest.approx(expected.item())


def test_source_and_target_are_not_swapped_for_asymmetric_costs():
    cost = torch.tensor([[0.0, 0.5], [0.25, 0.0]])
    first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    everyone = torch.ones(1, 2)
    assert transport_cost(first, second, everyone, cost, 0.05, 10).item() == pytest.approx(0.5)
    assert transport_cost(second, first, everyone, cost, 0.05, 10).item() == pytest.approx(0.25)


def test_masked_classes_have_no_effect():
    p, q, everyone = distributions(3, 4)
    cost = class_distances(rand(5, 3, seed=2), 1.0)
    nobody = torch.zeros(3, 1, dtype=torch.double)
    with_absent = [torch.cat([nobody, x], 1) for x in (p, q, everyone)]
    value = transport_cost(*with_absent, cost, 0.05, 2)
    torch.testing.assert_close(value, transport_cost(p, q, everyone, cost[1:, 1:], 0.05, 2))


def test_distances_of_classes_by_hand():
    # Cosines 0 and 1/2: 1 - e^-2 and 1 - e^-1 with sharpness 2; equal directions are 0 apart.
    weight = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, math.sqrt(3)], [5.0, 0.0]])
    distance = class_distances(weight, 2.0)
    assert distance[0].tolist() == pytest.approx([0, 1 - math.exp(-2), 1 - math.exp(-1), 0])
    assert distance.diagonal().tolist() == [0] * 4


def test_the_cost_is_read_from_the_teachers_classifier():
    weight = CONTEXT.teacher_net["fc"].weight
    torch.testing.assert_close(make().cost, class_distances(weight.detach(), 1.0))
    assert not make().cost.requires_grad


def test_the_target_term_by_hand():
    # p_t = (1/2, 1/4, 1/8, 1/8), p_s = (1/4, ...): -1/2 log(1/4) = log 2, for label 0
    teacher = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    value = per_image(make(), torch.zeros(1, K), teacher)
    assert value["target"].tolist() == pytest.approx([math.log(2)])


def test_the_label_has_no_influence_on_the_other_classes():
    student, teacher = rand(4, K), rand(4, K, seed=1)
    shift = 7 * torch.eye(K)  # the label of image i is i
    loss = make()
    before, after = (per_image(loss, x, teacher)["others"] for x in (student, student + shift))
    torch.testing.assert_close(after, before)


def test_confusing_similar_classes_costs_less():
    # Classes 2 and 3 are similar, class 1 is not. The label is 0.
    fc = nn.Linear(2, K)
    fc.weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    near, far, teacher = (torch.zeros(1, K) for _ in range(3))
    teacher[0, 2] = near[0, 3] = far[0, 1] = 5.0
    loss = make(context(fc), temperature=1.0)
    near, far = (per_image(loss, student, teacher)["others"] for student in (near, far))
    assert 10 * near < far


def test_scaling_logits_by_the_temperature_keeps_the_distance():
    student, teacher = rand(4, K), rand(4, K, seed=1)
    hot, cold = make(temperature=2.0), make(temperature=1.0)
    assert torch.allclose(
        per_image(hot, 2 * student, 2 * teacher)["others"],
        per_image(cold, student, teacher)["others"],
    )


def test_two_classes_leave_nothing_to_move():
    given = context(classes=2)
    loss = make(given)
    student = rand(3, 2).float().requires_grad_()
    value = loss(output_of(student), output_of(torch.ones(3, 2)), batch_of(given, 3))
    (gradient,) = torch.autograd.grad(value["others"], student)
    assert value["others"].item() == 0
    assert not gradient.any()


@pytest.mark.parametrize(("classes", "size"), [(2, 6), (10, 6), (10, 1)])
@pytest.mark.parametrize("regularization", [0.05, 25.0])
def test_it_stays_finite_for_large_random_logits(classes, size, regularization):
    given = context(classes=classes)
    loss = make(given, temperature=1.0, regularization=regularization)
    assert is_finite_for_random_logits(loss, given, size=size)


def test_single_precision_is_accurate_if_probabilities_underflow():
    # Classes in opposite directions are 1 - e^-20 apart, which gives factors of the largest range.
    student, teacher = (300 * rand(20, 6, seed=seed) for seed in (0, 1))
    cost = class_distances(rand(6, 2, seed=2), 10.0)
    assert cost.max() > 0.999

    def value_and_gradient(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        logits = student.to(dtype).requires_grad_()
        p, q = logits.softmax(1), teacher.to(dtype).softmax(1)
        value = transport_cost(p, q, torch.ones_like(q), cost.to(dtype), 0.05, 10)
        return value, *torch.autograd.grad(value.sum(), logits)

    for single, exact in zip(*map(value_and_gradient, (torch.float, torch.double)), strict=True):
        torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-5)


def test_it_passes_gradcheck():
    assert passes_gradcheck(make(), CONTEXT)
    _, q, everyone = distributions(3, 4)
    cost = class_distances(rand(4, 3), 1.0)

    def value(logits: Tensor) -> Tensor:
        return transport_cost(logits.softmax(1), q, everyone, cost, 0.1, 4)

    assert gradcheck(value, rand(3, 4).requires_grad_())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (context(nn.Conv2d(6, K, 1)), "needs a linear classifier with 4 outputs; 'fc' of large is"),
        (context(nn.Linear(6, 9)), r"'fc' of large is Linear\(in_features=6, out_features=9"),
        (context(path="pool"), "'pooled' of large must be its classifier's input, like fc:input"),
        (context(classes=1), "two classes or more, got 1"),
    ],
)
def test_a_teacher_without_a_linear_classifier_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        make(given)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", 0.0, "temperature must be a number above 0, got 0"),
        ("sharpness", -1.0, "sharpness must be a number above 0, got -1"),
        ("regularization", 0.04, "regularization must be 0.05 or more, got 0.04"),
        ("iterations", 0, "iterations must be 1 or more, got 0"),
    ],
)
def test_values_out_of_range_are_refused(name, value, message):
    with pytest.raises(UserError, match=message):
        make(**{name: value})


# --- features ---------------------------------------------------------------------------------

MAPS = context_of({"stage3": (3, 8, 8)}, {"stage3": (5, 4, 4)})


def features(given: LossContext = MAPS, grid: int = 1) -> WassersteinFeatures:
    torch.manual_seed(0)
    return WassersteinFeatures(given, "stage3", grid)


def of_maps(loss: WassersteinFeatures, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    both = output_of(stage3=student), output_of(stage3=teacher)
    return loss.per_image(*both, batch_of(MAPS, len(student)))


def test_means_and_deviations_by_hand():
    # Channel 1: mean 2 and deviation 1 against 5 and 0; channel 2: 4 and 2 against 4 and 3
    student, teacher = channels([1.0, 3.0], [2.0, 6.0]), channels([5.0, 5.0], [1.0, 7.0])
    loss = without_adapter(features(), "regressor")
    value = of_maps(loss, student, teacher)
    assert value["mean"].item() == pytest.approx(9)
    assert value["deviation"].item() == pytest.approx(2, abs=0.02)  # of sqrt(1e-5) instead of 0


def test_the_terms_add_up_to_the_wasserstein_distance_of_normal_distributions():
    # |m - n|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), with diagonal A and B, for one cell in four
    student, teacher = rand(2, 5, 4, 4), rand(2, 5, 4, 4, seed=1)
    loss = without_adapter(features(grid=2), "regressor").double()
    expected = []
    for s, t in zip(student, teacher, strict=True):
        total = 0.0
        for y, x in ((0, 0), (0, 2), (2, 0), (2, 2)):
            a, b = (z[:, y : y + 2, x : x + 2].flatten(1) for z in (s, t))
            va, vb = (z.var(1, correction=0) + 1e-5 for z in (a, b))
            total += (a.mean(1) - b.mean(1)).square().sum().item()
            total += (va + vb - 2 * (va * vb).sqrt()).sum().item()
        expected.append(total / 4)
    value = of_maps(loss, student, teacher)
    assert (value["mean"] + value["deviation"]).tolist() == pytest.approx(expected)


def test_the_order_of_positions_changes_nothing():
    x = rand(2, 5, 4, 4)
    turned = x.flatten(2)[..., torch.randperm(16)].view_as(x)
    for one, other in zip(moments(x, 1), moments(turned, 1), strict=True):
        torch.testing.assert_close(one, other)


def test_cells_of_one_position_have_no_deviation():
    mean, deviation = moments(rand(2, 3, 2, 2), 2)
    torch.testing.assert_close(mean, rand(2, 3, 2, 2))
    torch.testing.assert_close(deviation, torch.full_like(mean, 1e-5**0.5))


def test_features_of_a_grid_pass_gradcheck():
    assert passes_gradcheck(features(grid=2), MAPS)


@pytest.mark.parametrize("grid", [0, 3, 8])
def test_a_grid_that_does_not_divide_the_map_is_refused(grid):
    message = f"grid must divide the map of 4x4 at stage3 of large, got {grid}"
    with pytest.raises(UserError, match=message):
        features(grid=grid)
