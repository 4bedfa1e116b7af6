"""Knowledge Distillation via Softmax Regression Representation Learning (Yang et al., 2021).

ICLR 2021.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Networks, Output, require
from kd_bench.methods.common.adapters import Connector


class SoftmaxRegression(Loss):
    """mean((x - h_t)^2) and mean((C_t(x) - z_t)^2), x = avg(r(F_s)), C_t the teacher's classifier.

    Two terms, "feature" and "logits": after a connector r, the student's features should equal the
    teacher's penultimate features h_t, and the teacher's classifier should give them the teacher's
    logits. F_s is the student's last map; r is a 1x1 convolution without bias, batch norm and a
    ReLU, trained with the student and dropped after training. Connector, initial values and weights
    are those of the authors' code (jingyang2017/KD_SRRL); in SimKD's implementation, the connector
    takes pooled features.

    Raises:
        UserError: if the student's stage is not a map, or the teacher's `pooled` is not the input
            of its classifier.
    """

    terms = ("feature", "logits")
    needs_networks = True

    def __init__(self, context: LossContext, stage: str):
        super().__init__(context)
        shape, teacher = context.student[stage], context.teacher_shapes
        require(
            len(shape) == 3,
            f"SRRL needs the student's last map, but '{stage}' of {context.student.model} is not a"
            " map [C, H, W]",
        )
        teacher.classifier  # noqa: B018  # raises UserError if `pooled` is not its input
        self.stage, self.stages = stage, (stage, "pooled")
        self.connector = nn.Sequential(Connector(shape[0], teacher["pooled"][0]), nn.ReLU())

    def forward(
        self, student: Output, teacher: Output, batch: Batch, networks: Networks
    ) -> dict[str, Tensor]:
        assert networks.teacher_classifier is not None  # checked when this was built
        x = self.connector(student.features[self.stage]).mean((2, 3))  # [B, C]
        return {
            "feature": F.mse_loss(x, teacher.features["pooled"]),
            "logits": F.mse_loss(networks.teacher_classifier(x), teacher.logits),
        }
