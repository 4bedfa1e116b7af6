"""DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer (Huang et al., 2025).

arXiv:2505.15133.
"""

from __future__ import annotations

from collections.abc import Sequence

from kd_bench.interfaces import require
from kd_bench.methods.common.momenta import SeparateMomenta

PARTS = ("target", "ce", "rest")


class DeeplyDecoupled(SeparateMomenta):
    """A momentum each for cross entropy and the terms "target" and "rest", mu + delta of the part.

    For methods whose terms are those of decoupled distillation, such as `dkd`. The paper finds a
    larger ratio of signal to noise in the gradients of cross entropy and of the rest, and gives
    them a larger momentum. The authors' code (haiduo/DeepKD) computes otherwise: there cross
    entropy has the momentum of "target", by an order of conditions. "target" has the weight decay,
    as there. Deltas of +-0.075 are theirs for CIFAR-100 at mu = 0.9, without Nesterov's momentum.
    The paper's mask of unlikely classes, which grows while training, is not part of the rule.
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
