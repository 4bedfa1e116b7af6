"""Deep Mutual Learning (Zhang, Xiang, Hospedales and Lu, 2018), CVPR 2018, arXiv:1706.00384."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import Batch, Loss, Output
from kd_bench.methods.common.functional import soft_kl


class MutualLearning(Loss):
    """Student and peer, both from scratch, learn the labels and each other's predictions.

    Student: CE + KL(p_peer || p_student); peer: CE + KL(p_student || p_peer); section 3.1 of the
    paper, softmax at temperature 1, means over the batch. Terms: `kl`, and the peer's `peer_kl`
    and `peer_ce`; the student's cross entropy is the method's `ce`. In either divergence what is
    learnt from is a constant, so no term moves both networks.

    The peer is the job's teacher model, trained by the student's recipe; its accuracy is recorded,
    its weights are not kept. Both learn from predictions made before either has moved, as in
    AberHu/Knowledge-Distillation-Zoo, whose number is then the better network's best epoch; the
    paper's algorithm alternates: it moves one network and asks it again before it moves the other.

    Beside other losses, the peer is trained by those, too.
    """

    terms = ("kl", "peer_kl", "peer_ce")
    teacher_learns = True

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        s, t = student.logits, teacher.logits
        return {
            "kl": soft_kl(s, t.detach(), temperature=1.0).mean(),
            "peer_kl": soft_kl(t, s.detach(), temperature=1.0).mean(),
            "peer_ce": F.cross_entropy(t, batch.target),
        }
