"""DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer (Huang et al., 2025).

arXiv:2505.15133.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from kd_bench.interfaces import LossContext, require
from kd_bench.methods.common.momenta import SeparateMomenta
from kd_bench.methods.dkd import DecoupledDistillation

PARTS = ("target", "ce", "rest")


class DeeplyDecoupled(SeparateMomenta):
    """Separate momenta for cross entropy and the terms "target" and "rest": mu + delta of the part.

    For methods whose terms are those of decoupled distillation, such as `dkd`. The paper finds a
    higher signal-to-noise ratio in the gradients of cross entropy and of the rest, and gives them a
    larger momentum. The authors' code (haiduo/DeepKD) differs: there, cross entropy has the
    momentum of "target", due to the order of conditions. "target" has the weight decay, as in that
    code. For CIFAR-100 at mu = 0.9, without Nesterov's momentum, its deltas are 0.075 for cross
    entropy, -0.075 for "target", and for "rest", depending on the pair, 0 to 0.085. The paper's
    mask of unlikely classes is part of the loss: `GrowingMask`.
    """

    def __init__(
        self, terms: Sequence[str], momentum: float, ce: float, target: float, rest: float
    ):
        found = {part: [t for t in terms if t.rpartition("/")[2] == part] for part in PARTS}
        others = [term for term in terms if term.rpartition("/")[2] not in PARTS]
        require(
            all(found.values()) and not others,
            "deepkd needs terms ce, target and rest, such as those of dkd; the method has"
            f" {', '.join(terms)}",
        )
        super().__init__(list(found.values()), [target, ce, rest], momentum)


class GrowingMask(DecoupledDistillation):
    """As `dkd`, but "rest" covers only the teacher's K likeliest classes; K grows every epoch.

    The classes with the teacher's K largest logits, without the label, are kept on both sides, as
    in the authors' code (haiduo/DeepKD). There, K is constant, and off in the configurations for
    CIFAR-100. In the paper it grows from a small value, since unlikely classes are noise early in
    training. We could not determine its schedule, so ours is linear: from `first_share` of the
    classes, but at least two, in the first epoch to all of them in the last.

    Args:
        context: facts about the networks and data.
        temperature: T.
        first_share: share of the classes in the first epoch.

    Raises:
        UserError: if the temperature is not above 0, or the share is not in (0, 1].
    """

    def __init__(self, context: LossContext, temperature: float, first_share: float):
        super().__init__(context, temperature)
        require(
            0 < first_share <= 1, f"first_share must be above 0 and at most 1, got {first_share}"
        )
        self.classes, self.epochs = context.num_classes, context.epochs
        self.first = max(2, math.ceil(first_share * self.classes))

    def others(self, teacher: Tensor, label: Tensor, epoch: Tensor) -> Tensor:
        order = teacher.argsort(dim=1, descending=True, stable=True)
        place = order.argsort(dim=1)  # 0 is the likeliest class
        return (place < self.kept(epoch)) & ~label

    def kept(self, epoch: Tensor) -> Tensor:
        """K in an epoch, from 1: [] -> []."""
        done = (epoch - 1) / max(self.epochs - 1, 1)
        return (self.first + done * (self.classes - self.first)).round()
