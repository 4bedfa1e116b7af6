"""A control: the teacher's outputs for other images of the same class; no paper."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_bench.interfaces import LossContext
from kd_bench.methods.st import SoftTarget


def cycles(labels: Tensor) -> Tensor:
    """A random partner of the same class for each image: labels [N] -> [N] int64.

    The images of a class form a single cycle, so each is the partner of exactly one image, and none
    is its own partner unless alone in its class. The order is always drawn on the CPU, so it does
    not depend on the device.
    """
    device, count = labels.device, len(labels)
    drawn = torch.randperm(count).to(device)
    order = drawn[labels[drawn].argsort(stable=True)]  # class after class, each in random order
    place = torch.arange(count, device=device)
    sorted_labels = labels[order]
    begins = torch.ones_like(place, dtype=torch.bool)
    begins[1:] = sorted_labels[1:] != sorted_labels[:-1]
    first = torch.where(begins, place, 0).cummax(0).values  # place of each class's first image
    is_last = begins.roll(-1)
    following = torch.where(is_last, first, (place + 1) % count)
    return torch.empty_like(order).scatter_(0, order, order[following])


class OtherImageTarget(SoftTarget):
    """T^2 KL(softmax(z_t' / T) || softmax(z_s / T)), z_t' for another image of the same class.

    Every training image has a partner of the same class, drawn once from the job's seed. Whenever
    the student sees the image, the teacher sees the partner, in the partner's own view of that
    epoch. So the targets come from a teacher and are as accurate and as confident as for `st`,
    whose term this is, but contain no information about the image beyond its class. The gain of
    `st` over this row is knowledge of single images; the gain of this row over `label_smoothing` is
    knowledge of classes.

    An image that is alone in its class is its own partner. Other losses of the same method also get
    the outputs for the partners.
    """

    partner: Tensor  # [N] int64

    def __init__(self, context: LossContext, temperature: float):
        super().__init__(context, temperature)
        self.register_buffer("partner", cycles(context.labels))

    def teacher_index(self, index: Tensor) -> Tensor:
        return self.partner.index_select(0, index)
