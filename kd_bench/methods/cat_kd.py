"""Class Attention Transfer Based Knowledge Distillation (Guo et al., 2023), arXiv:2304.12777."""

from __future__ import annotations

from torch import Tensor

from kd_bench.interfaces import Batch, Classifier, Loss, LossContext, Networks, Output, require
from kd_bench.methods.common.adapters import average_pool, classified_map
from kd_bench.methods.common.functional import unit


class ClassAttentionTransfer(Loss):
    """mean((A_s - A_t)^2), A_k = sum_c w_kc F_c the activation map of class k, averaged to r x r.

    F is the map before the global average, `stage`, and w the weights of the network's own
    classifier, so the mean of a class activation map over positions is the class's logit without
    the bias. The authors (GzyAftermath/CAT-KD) rewrite the networks so that the classifier is a 1x1
    convolution before the average, without a bias. This gives the same maps; here the biases remain
    and are trained only by cross entropy. Nothing is added to the student, and the networks may
    differ in channels and size.

    With `normalize`, the maps of a class are divided by their length, as in the paper. The authors'
    configurations for CIFAR-100 normalize for pairs of different architectures, with weights of 15
    to 600 and r = 4 for ShuffleNets. They do not for other pairs, where weights differ by a factor
    of 20, since the size of the maps depends on the networks.

    Raises:
        UserError: if the shapes rule out that the classifier's input is the average of `stage` over
            positions, or the resolution r is below 1.
    """

    needs_networks = True

    def __init__(self, context: LossContext, stage: str, resolution: int, normalize: bool):
        super().__init__(context)
        require(resolution >= 1, f"resolution must be 1 or more, got {resolution}")
        self.stages = classified_map(context, stage, "CAT-KD")
        self.resolution, self.normalize = resolution, normalize

    def forward(self, student: Output, teacher: Output, batch: Batch, networks: Networks) -> Tensor:
        s = self._class_maps(student, networks.student_classifier)
        t = self._class_maps(teacher, networks.teacher_classifier)
        return (s - t).pow(2).mean()

    def _class_maps(self, output: Output, classifier: Classifier | None) -> Tensor:
        """Class activation maps: [B, r r, K]."""
        assert classifier is not None  # checked by __init__
        size = self.resolution, self.resolution
        x = average_pool(output.features[self.stages[0]], size).flatten(2).mT  # [B, r r, C]
        logits = classifier(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        maps = logits - classifier(x.new_zeros(1, x.shape[2]))
        return unit(maps, 1) if self.normalize else maps
