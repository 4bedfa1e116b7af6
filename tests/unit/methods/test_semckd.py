"""SemCKD: attention to the teacher's stages by hand and in a loop, and other batch sizes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.jobs import job
from helpers.maps import without_adapter
from helpers.outputs import batch_of, context_of, output_of, rand
from torch import Tensor, nn

from kd_bench.interfaces import LossContext, Output, UserError
from kd_bench.methods.semckd import SemanticCalibration, SimilarityEmbedding

CONTEXT = context_of(
    {"stage1": (2, 4, 4), "stage2": (3, 2, 2)}, {"stage1": (4, 2, 2), "stage2": (5, 1, 1)}
)
STAGES = ["stage1", "stage2"]


def make(context: LossContext = CONTEXT, batch_size: int = 8) -> SemanticCalibration:
    torch.manual_seed(0)
    return SemanticCalibration(context, STAGES, batch_size)


def outputs(size: int) -> tuple[Output, Output]:
    return tuple(
        output_of(
            **{s: rand(size, *shape, seed=seed + i) for i, (s, shape) in enumerate(net.items())}
        )
        for net, seed in ((CONTEXT.student, 0), (CONTEXT.teacher, 50))
    )


class Fixed(nn.Module):
    """An embedding that is the same for all images."""

    def __init__(self, *values: float):
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, features: Tensor) -> Tensor:
        return self.values.expand(len(features), -1)


def test_a_value_by_hand():
    # Queries (1, 0) and (0, 1), keys (ln 3, 0) and (0, 0): weights (3/4, 1/4) and (1/2, 1/2). The
    # squared distances are 1 and 16 for the first stage, 9 and 4 for the second.
    shapes = {"stage1": (1, 1, 1), "stage2": (1, 1, 1)}
    loss = without_adapter(make(context_of(shapes, shapes)), "regressors")
    loss.query.update({"stage1": Fixed(1.0, 0.0), "stage2": Fixed(0.0, 1.0)})
    loss.key.update({"stage1": Fixed(math.log(3), 0.0), "stage2": Fixed(0.0, 0.0)})
    student, teacher = (
        output_of(**{s: torch.full((1, 1, 1, 1), x) for s, x in zip(STAGES, values, strict=True)})
        for values in ((0.0, 4.0), (1.0, 6.0))
    )
    student.features["stage1"] += 2.0  # distances: |2 - 1| and |2 - 6|; |4 - 1| and |4 - 6|
    value = loss.per_image(student, teacher, batch_of(CONTEXT, 1))
    assert value.item() == pytest.approx((3 / 4 * 1 + 1 / 4 * 16 + (9 + 4) / 2) / 2)


def test_it_matches_a_slow_loop():
    loss, (student, teacher) = make(batch_size=6).double(), outputs(6)
    s, t = student.features, teacher.features
    expected = torch.zeros(6).double()
    sizes = {("stage1", "stage1"): 2, ("stage2", "stage1"): 2}
    for i in STAGES:
        fitted = [
            loss.regressors[f"{i}_{j}"](F.adaptive_avg_pool2d(s[i], sizes.get((i, j), 1)))
            for j in STAGES
        ]
        for image in range(6):
            query, *keys = (
                F.normalize(module.layers(x.flatten(1) @ x[image].flatten()), dim=0)
                for module, x in [(loss.query[i], s[i]), *((loss.key[j], t[j]) for j in STAGES)]
            )
            weights = [math.exp(float(query.detach() @ key.detach())) for key in keys]
            for weight, j, x in zip(weights, STAGES, fitted, strict=True):
                distance = (x[image] - t[j][image]).square().mean().detach()
                expected[image] += weight / sum(weights) * distance / len(STAGES)
    value = loss.per_image(student, teacher, batch_of(CONTEXT, 6))
    torch.testing.assert_close(value, expected)


def test_similarities_of_a_smaller_batch_are_padded_with_zeros():
    torch.manual_seed(0)
    embedding, x = SimilarityEmbedding(8).double(), rand(3, 2, 2, 2)
    similarity = torch.zeros(3, 8).double()
    similarity[:, :3] = x.flatten(1) @ x.flatten(1).T
    torch.testing.assert_close(embedding(x), F.normalize(embedding.layers(similarity)))
    assert embedding(x).shape == (3, 2)


def test_a_larger_batch_is_refused():
    message = "batch_size of SemCKD is 2, but a batch has 3 images"
    with pytest.raises(UserError, match=message):
        make(batch_size=2)(*(out for out in outputs(3)), batch_of(CONTEXT, 3))


@pytest.mark.slow
def test_the_batch_size_is_the_recipes(tmp_path):
    for size in (16, 48):
        work = job(tmp_path, "method=semckd", f"recipe.batch_size={size}")
        assert work.config.method.losses["semckd"]["batch_size"] == size


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(UserError, match="batch_size must be 1 or more, got 0"):
        make(batch_size=0)
