"""Angular-KD: values by hand, a loop over images and views, and the published code's variant."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.logit_losses import divergence, softmax
from helpers.outputs import K, batch_of, context_of, output_of, rand
from torch import Tensor, nn
from torch.autograd import gradcheck

from kd_bench.interfaces import UserError
from kd_bench.methods.angular import AngularViews, PublishedAngularViews, make_views

B, C, T = 5, 6, 4.0
CONTEXT = context_of({"pooled": (4,)}, {"pooled": (C,)})


def make(context=CONTEXT, kind=AngularViews, **changed):
    values = {"temperature": T, "views": 3, "view_weight": 0.8, "margin": 0.2}
    return kind(context, **({**values, "contrast_temperature": 0.07} | changed))


def evaluate(loss, student: Tensor, teacher: Tensor, pooled: Tensor) -> dict[str, Tensor]:
    batch = batch_of(CONTEXT, len(student))
    return loss(output_of(student), output_of(teacher, pooled=pooled), batch)


def random_inputs() -> tuple[Tensor, Tensor, Tensor]:
    return rand(B, K), 3 * rand(B, K, seed=1), rand(B, C, seed=2)


class Given(nn.Module):
    """A view, or a view's classifier, with a given output."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return self.output


def with_views(loss, features: Tensor, logits: Tensor):
    """A loss whose views have these features [M, B, C] and logits [M, B, K]."""
    loss.views = nn.ModuleList(map(Given, features))
    loss.classifiers = nn.ModuleList(map(Given, logits))
    return loss


def cosine(a: list[float], b: list[float]) -> float:
    length = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / length


def inner(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def inter(views, teacher, similarity, margin: float) -> float:
    """The inter-angle losses of views, in loops over views and images."""
    m, images = len(views), len(teacher)
    contrast = diversity = 0.0
    for i in range(images):
        own = [similarity(view[i], teacher[i]) for view in views]
        for number, view in enumerate(views):
            scores = [similarity(view[i], other) / 0.07 for other in teacher]
            if own[number] >= 1 - margin:
                scores[i] = 1 / 0.07
            contrast -= math.log(softmax(scores)[i]) / (m * images) / m
        if min(own) > 1 - margin:
            for a in range(m):
                for b in range(m):
                    if a != b:
                        pair = softplus(similarity(views[a][i], views[b][i]))
                        diversity += pair / (m * (m - 1)) / images
    return contrast + diversity


def intra(views, teacher) -> float:
    m, images = len(views), len(teacher)
    total = 0.0
    for a in range(m):
        for b in range(m):
            if a != b:
                differences = [
                    [[t - v for t, v in zip(teacher[i], views[x][i], strict=True)] for x in (a, b)]
                    for i in range(images)
                ]
                mean = sum(cosine(*pair) for pair in differences) / images
                total += softplus(mean) / (m * (m - 1))
    return total


@pytest.mark.parametrize("margin", [0.2, 0.9, 2.0])  # met by no, some and all images
def test_terms_are_those_of_a_loop_over_images_and_views(margin):
    student, teacher, pooled = random_inputs()
    features, logits = pooled + rand(3, B, C, seed=3), 2 * rand(3, B, K, seed=4)
    loss = with_views(make(margin=margin), features, logits)
    found = evaluate(loss, student, teacher, pooled)
    p_teacher = [softmax(row, T) for row in teacher.tolist()]
    p = [[softmax(row, T) for row in view] for view in logits.tolist()]
    target = label = 0.0
    for i in range(B):
        mixed = [
            (sum(0.8 * view[i][k] for view in p) + p_teacher[i][k]) / (3 * 0.8 + 1)
            for k in range(K)
        ]
        target += T**2 * divergence(mixed, softmax(student[i].tolist(), T)) / B
        for view in logits.tolist():
            label -= math.log(softmax(view[i])[CONTEXT.labels[i]]) / B
    h = pooled.tolist()
    expected = {
        "target": target,
        "label": label,
        "feature_inter": inter(features.tolist(), h, cosine, margin),
        "feature_intra": intra(features.tolist(), h),
        "logit_inter": inter(p, p_teacher, inner, margin),
        "logit_intra": intra(p, p_teacher),
    }
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected)


def test_the_published_target_is_the_mean_times_the_ratio_of_norms():
    # Weights 0.8, 0.8, 0.8, 1: sum 3.4, length sqrt(2.92)
    student, teacher, pooled = random_inputs()
    parts = pooled + rand(3, B, C, seed=3), rand(3, B, K, seed=4)
    ours, published = (
        with_views(make(kind=kind), *parts) for kind in (AngularViews, PublishedAngularViews)
    )
    ratio = 3.4 / 2.92**0.5
    at = [x / T for x in (parts[1], teacher)]
    torch.testing.assert_close(published.log_target(*at).exp(), ratio * ours.log_target(*at).exp())
    assert ours.log_target(*at).exp().sum(1).tolist() == pytest.approx([1.0] * B)
    a, b = (evaluate(loss, student, teacher, pooled) for loss in (ours, published))
    # sum_k r t (log(r t) - log s) = r KL + r log r
    expected = ratio * a["target"].item() + T**2 * ratio * math.log(ratio)
    assert b["target"].item() == pytest.approx(expected)
    for name in ("label", "feature_intra", "logit_inter", "logit_intra"):
        assert torch.equal(a[name], b[name])


def test_views_equal_to_the_teachers_features_have_the_largest_diversity_loss():
    # All cosines are 1: softplus(1) = ln(1 + e)
    _, _, pooled = random_inputs()
    loss = make()
    views = pooled.expand(3, B, C)
    assert loss.feature_diversity(views, pooled).item() == pytest.approx(math.log(1 + math.e))
    # Published: each channel of 3 equal views is +-1/sqrt(3), so that pairs have C / 3 = 2
    published = make(kind=PublishedAngularViews, margin=2.0)
    assert published.feature_diversity(views, pooled).item() == pytest.approx(softplus(2.0))


def test_views_start_with_orthonormal_rows():
    weights = torch.stack([view[1].weight for view in make_views(4, C)])  # [M, C, C]
    for row in range(C):
        torch.testing.assert_close(weights[:, row] @ weights[:, row].T, torch.eye(4))


def test_the_teacher_gets_no_gradient_and_student_and_views_do():
    student, teacher, pooled = (x.float().requires_grad_() for x in random_inputs())
    loss = make()
    detached = teacher.detach(), pooled.detach()
    sum(evaluate(loss, student, *detached).values()).backward()
    assert student.grad.any()
    assert all(parameter.grad.any() for parameter in loss.parameters())


@pytest.mark.slow
def test_its_gradient_matches_finite_differences():
    loss = make().double().eval()
    student, teacher, pooled = random_inputs()
    linear = loss.views[0][1]
    weight = linear.weight.detach().clone().requires_grad_()

    def value(student: Tensor, weight: Tensor) -> Tensor:
        del linear.weight
        linear.weight = weight
        return sum(evaluate(loss, student, teacher, pooled).values())

    del linear._parameters["weight"]
    linear.weight = weight
    assert gradcheck(value, (student.requires_grad_(), weight))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"views": 1}, "views must be from 2 to 6, got 1"),
        ({"views": 7}, "views must be from 2 to 6, got 7"),
        ({"margin": -0.1}, r"margin must be in \[0, 2\], got -0.1"),
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"view_weight": 0}, "view_weight must be a number above 0, got 0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(UserError, match=message):
        make(**changed)


def test_features_that_are_not_vectors_are_refused():
    with pytest.raises(UserError, match="'pooled' of large is 6x2x2"):
        make(context_of({"pooled": (4,)}, {"pooled": (6, 2, 2)}))
