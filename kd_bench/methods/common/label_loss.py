"""The loss on labels: cross entropy or binary cross entropy, chosen by the recipe."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from kd_bench.config.schema import LabelLossName, RecipeConfig
from kd_bench.methods.common.partition import is_class


@dataclass(frozen=True)
class LabelLoss:
    """The mean loss of logits [B, K] on labels [B] int64, or on class probabilities [B, K] float.

    `ce` is cross entropy. `bce` is the mean over images and classes k of
    -y_k log sigmoid(z_k) - (1 - y_k) log(1 - sigmoid(z_k)), as in ResNet strikes back (Wightman,
    Touvron and Jegou, 2021, arXiv:2110.00476) and in timm.

    Args:
        name: which of the two.
        smoothing: part of each label that is spread evenly over all classes.
        threshold: for `bce`: after smoothing, y_k becomes 1 if it is above the threshold, else 0.
            None keeps the probabilities.
    """

    name: LabelLossName = LabelLossName.ce
    smoothing: float = 0.0
    threshold: float | None = None

    @classmethod
    def of(cls, recipe: RecipeConfig) -> LabelLoss:
        """The loss of a recipe."""
        return cls(recipe.label_loss, recipe.label_smoothing, recipe.target_threshold)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.name is LabelLossName.ce:
            return F.cross_entropy(logits, target, label_smoothing=self.smoothing)
        share = is_class(target, logits).to(logits.dtype) if target.dim() == 1 else target
        share = (1 - self.smoothing) * share + self.smoothing / logits.shape[1]
        if self.threshold is not None:
            share = (share > self.threshold).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, share)
