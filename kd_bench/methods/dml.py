"""Deep Mutual Learning (Zhang, Xiang, Hospedales and Lu, 2018), CVPR 2018, arXiv:1706.00384."""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.methods.common.functional import soft_kl


class MutualLearning(Loss):
    """Student and peer, both trained from scratch, learn from the labels and from each other.

    Student: CE + KL(p_peer || p_student); peer: CE + KL(p_student || p_peer); section 3.1 of the
    paper, softmax at temperature 1, mean over the batch. Terms: `kl`, and `peer_kl` and `peer_ce`
    of the peer; the student's cross entropy is the method's `ce`. CE is the recipe's loss on the
    labels. The target of each divergence is
    detached, so no term updates both networks.

    The peer is the job's teacher model, trained with the student's recipe; its accuracy is
    recorded, but its weights are not saved. Both learn from predictions made before either is
    updated, as in AberHu/Knowledge-Distillation-Zoo, which reports the best epoch of the better
    network. The paper's algorithm alternates: it updates one network and recomputes its predictions
    before updating the other.

    If combined with other losses, the peer is trained by those as well.
    """

    terms = ("kl", "peer_kl", "peer_ce")
    teacher_learns = True

    def __init__(self, context: LossContext):
        super().__init__(context)
        self.label_loss = context.label_loss

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = student.logits, teacher.logits
        return {
            "kl": soft_kl(s, t.detach(), temperature=1.0).mean(),
            "peer_kl": soft_kl(t, s.detach(), temperature=1.0).mean(),
            "peer_ce": self.label_loss(t, batch.target),
        }
