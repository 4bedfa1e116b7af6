"""Single-Teacher View Augmentation: Boosting KD via Angular Diversity (Yu et al., 2025).

NeurIPS 2025, arXiv:2510.22480. Angular-KD.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require, require_positive
from kd_bench.methods.common.adapters import VectorBatchNorm
from kd_bench.methods.common.functional import kl, unit

MOST_VIEWS = 6  # the authors' code has dropout rates and initial values for up to 6


class AngularViews(Loss):
    """T^2 KL(sum_m w_m p_m || p_s), p_0 the teacher's, p_m of trained views at other angles.

    There are M views of one teacher: each has its own dropout, linear map, batch norm and
    classifier, takes the teacher's pooled features h, and is trained along with the student. Terms,
    means over images:

    - `target`: the divergence above, at temperature T. The weights are `view_weight` for each view
      and 1 for the teacher, divided by their sum.
    - `label`: cross entropy of the views, summed over them.
    - `feature_inter`, for the features of the views, and `logit_inter`, for their predictions at T:
      (a) the cross entropy of finding a view's own image among the teacher's h of the batch by
      similarity, over M. The similarity to its own image counts as 1 once it is above 1 - margin.
      (b) the mean over pairs of views of softplus of their similarity, for images whose views are
      all within that margin, and 0 for others.
    - `feature_intra` and `logit_intra`: the mean over pairs of views of softplus of c, where c is
      the cosine between their differences from the teacher, averaged over the batch.

    The similarity of features is their cosine; that of predictions is their inner product, as in
    the authors' code (june6423/Angular-KD), the source of all details and numbers. As there,
    `target` also trains the views. See `PublishedAngularViews` for errors that are corrected here.
    The linear map has no bias, since batch norm would remove it.

    Raises:
        UserError: if there are fewer than 2 views, or more than 6 or than features; a number is out
            of range; or `pooled` is not a vector.
    """

    stages = ("pooled",)
    log_weights: Tensor  # [M + 1], of all views and the teacher in the target
    terms = ("target", "label", "feature_inter", "feature_intra", "logit_inter", "logit_intra")
    needs_labels = True

    def __init__(
        self,
        context: LossContext,
        temperature: float,
        views: int,
        view_weight: float,
        margin: float,
        contrast_temperature: float,
    ):
        super().__init__(context)
        shape = context.teacher_shapes["pooled"]
        require(
            len(shape) == 1,
            f"angular needs pooled features, and 'pooled' of {context.teacher_shapes.model} is"
            f" {'x'.join(map(str, shape))}",
        )
        most = min(MOST_VIEWS, shape[0])
        require(2 <= views <= most, f"views must be from 2 to {most}, got {views}")
        require_positive("temperature", temperature)
        require_positive("view_weight", view_weight)
        require_positive("contrast_temperature", contrast_temperature)
        require(0 <= margin <= 2, f"margin must be in [0, 2], got {margin}")
        self.temperature, self.margin = temperature, margin
        self.contrast_temperature = contrast_temperature
        weights = self.weights(torch.tensor([*[view_weight] * views, 1.0]))
        self.register_buffer("log_weights", weights.log(), persistent=False)
        self.views = nn.ModuleList(make_views(views, shape[0]))
        self.classifiers = nn.ModuleList(
            _classifier(shape[0], context.num_classes) for _ in self.views
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        h, temperature = teacher.features["pooled"], self.temperature
        features = torch.stack([view(h) for view in self.views])  # [M, B, C]
        logits = torch.stack(
            [classify(x) for classify, x in zip(self.classifiers, features, strict=True)]
        )  # [M, B, K]
        labels = batch.target.repeat(len(logits))
        p, p_teacher = (logits / temperature).softmax(2), (teacher.logits / temperature).softmax(1)
        log_target = self.log_target(logits / temperature, teacher.logits / temperature)
        log_student = F.log_softmax(student.logits / temperature, dim=1)
        return {
            "target": temperature**2 * kl(log_target, log_student).mean(),
            "label": len(logits) * F.cross_entropy(logits.flatten(0, 1), labels),
            "feature_inter": self._contrast(unit(features, 2), unit(h, 1))
            + self.feature_diversity(features, h),
            "feature_intra": _even_spread(features, h),
            "logit_inter": self._contrast(p, p_teacher) + self._diversity(p, p_teacher),
            "logit_intra": _even_spread(p, p_teacher),
        }

    def log_target(self, views: Tensor, teacher: Tensor) -> Tensor:
        """log of the student's target: [M, B, K], [B, K] -> [B, K]."""
        log_p = F.log_softmax(torch.cat([views, teacher[None]]), dim=2)
        return (log_p + self.log_weights[:, None, None]).logsumexp(0)

    def weights(self, raw: Tensor) -> Tensor:
        """Weights of all views and of the teacher: [M + 1] -> [M + 1]."""
        return raw / raw.sum()

    def feature_diversity(self, features: Tensor, teacher: Tensor) -> Tensor:
        """The similarity of views, for images within the margin: [M, B, C], [B, C] -> []."""
        return self._diversity(unit(features, 2), unit(teacher, 1))

    def _contrast(self, views: Tensor, teacher: Tensor) -> Tensor:
        """Cross entropy of finding a view's image: [M, B, D], [B, D] -> []."""
        similarity = views @ teacher.T  # [M, B, B]
        own = torch.eye(len(teacher), dtype=torch.bool, device=teacher.device)
        is_near = own & (similarity >= 1 - self.margin)
        score = torch.where(is_near, 1.0, similarity) / self.contrast_temperature
        image = torch.arange(len(teacher), device=teacher.device).repeat(len(views))
        return F.cross_entropy(score.flatten(0, 1), image) / len(views)

    def _diversity(self, views: Tensor, teacher: Tensor) -> Tensor:
        """Softplus of the similarity of views: [M, B, D], [B, D] -> []."""
        nearness = (views * teacher).sum(2).amin(0)  # [B]
        by_image = views.transpose(0, 1)  # [B, M, D]
        similar = _mean_of_pairs(F.softplus(by_image @ by_image.mT))  # [B]
        return torch.where(nearness > 1 - self.margin, similar, 0.0).mean()


class PublishedAngularViews(AngularViews):
    """Angular-KD as its published code computes it: the weights w of `target` sum to 2.44.

    This sum is for 5 views of weight 0.8. The weights are divided by their L2 norm, so the target
    is not a distribution, and the term is effectively weighted 2.44 times as much. In addition, the
    diversity of features scales each channel to length 1 over the views, where a cosine scales each
    view over the channels. (Another file of the code, which is not used in training, divides by the
    sum.)
    """

    def weights(self, raw: Tensor) -> Tensor:
        return raw / torch.linalg.vector_norm(raw)

    def feature_diversity(self, features: Tensor, teacher: Tensor) -> Tensor:
        return self._diversity(unit(features, 0), unit(teacher, 1))


def make_views(count: int, channels: int) -> list[nn.Module]:
    """Modules that map features [B, channels] to views of the same shape.

    For each c, the rows c of all maps are orthonormal. Dropout rates and the initial values of
    batch norm differ between views; the latter are one normally distributed number for all
    channels.
    """
    weights = torch.linalg.qr(torch.randn(channels, channels, count)).Q  # [C, C, M]
    return [_view(number, weights[:, :, number]) for number in range(count)]


def _view(number: int, weight: Tensor) -> nn.Module:
    linear, norm = nn.Linear(len(weight), len(weight), bias=False), VectorBatchNorm(len(weight))
    mean, deviation = 1 - 0.1 * number, 0.1 * (number + 1)
    with torch.no_grad():
        linear.weight.copy_(weight)
        for values in (norm.weight, norm.bias):
            values.fill_(mean + deviation * torch.randn(()))
    return nn.Sequential(nn.Dropout(0.15 + 0.05 * number), linear, norm)


def _classifier(channels: int, classes: int) -> nn.Linear:
    classifier = nn.Linear(channels, classes)
    nn.init.xavier_uniform_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return classifier


def _even_spread(views: Tensor, teacher: Tensor) -> Tensor:
    """Softplus of cosines between views' directions from the teacher: [M, B, D], [B, D] -> []."""
    direction = unit(teacher - views, 2).transpose(0, 1)  # [B, M, D]
    return _mean_of_pairs(F.softplus((direction @ direction.mT).mean(0)))


def _mean_of_pairs(matrix: Tensor) -> Tensor:
    """The mean of the off-diagonal entries: [..., M, M] -> [...]."""
    count = matrix.shape[-1]
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (matrix.sum((-2, -1)) - diagonal) / (count * (count - 1))
