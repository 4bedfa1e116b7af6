"""Knowledge Distillation with Adversarial Samples (Heo et al., 2019), AAAI 2019, arXiv:1805.05532.

"... Supporting Decision Boundary", its title goes on: boundary supporting samples, BSS.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import (
    Batch,
    Loss,
    LossContext,
    Network,
    Networks,
    Output,
    require,
    require_positive,
)
from kd_bench.methods.common.functional import soft_kl, unit

OVERSHOOT = 1e-4  # of a logit, so that a step that ends on the boundary crosses it


def base_samples(
    student: Tensor, teacher: Tensor, target: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """The images on which the networks differ most: [B, K], [B, K], [B] -> twice [number].

    The difference is sum_k (p_t,k - p_s,k)^2 over the classes other than the label.

    Returns:
        Positions in the batch, the most different first, those that the teacher takes for another
        class than the label last; and for each whether the teacher takes it for its label.
    """
    own = F.one_hot(target, teacher.shape[1]).bool()
    difference = (teacher.softmax(1) - student.softmax(1)).pow(2).masked_fill(own, 0.0).sum(1)
    right = teacher.argmax(1) == target
    order = difference.masked_fill(~right, -1.0).argsort(descending=True, stable=True)[:number]
    return order, right.index_select(0, order)


def sample_rival(teacher: Tensor, target: Tensor) -> Tensor:
    """A class other than the label, drawn by the teacher's probabilities: [B, K], [B] -> [B]."""
    own = F.one_hot(target, teacher.shape[1]).bool()
    # The largest of log(p) plus Gumbel noise is a draw from p, for the whole batch at once; what
    # log(p) and the logits differ by is the same for all classes of an image.
    noise = -torch.empty_like(teacher).exponential_().log()
    return (teacher + noise).masked_fill(own, -math.inf).argmax(1)


def attack(
    net: Network,
    image: Tensor,
    target: Tensor,
    rival: Tensor,
    limits: tuple[Tensor, Tensor],
    steps: int,
    step_size: float,
) -> Tensor:
    """Images [n, 3, H, W] moved towards another class, each until `net` takes it for another.

    A step is step_size (z_y - z_r + 1e-4) g / |g| with g = d(z_r - z_y) / dx, y the target and r
    the rival [n].

    Args:
        limits: smallest and largest value of a pixel [1, 3, 1, 1].
        steps: so many are made whether images are left or not, which the device alone knows.
    """
    for _ in range(steps):
        image = image.detach().requires_grad_()
        logits = net(image).logits  # [n, K]
        own, other = (F.one_hot(x, logits.shape[1]).to(logits.dtype) for x in (target, rival))
        (gradient,) = torch.autograd.grad(logits, image, other - own)
        lead = (logits.detach() * (own - other)).sum(1)  # [n] of the target over the rival
        length = step_size * (lead + OVERSHOOT) * (logits.argmax(1) == target)
        moved = image.detach() + length.view(-1, 1, 1, 1) * unit(gradient, dim=(1, 2, 3))
        image = moved.clamp(*limits)
    return image


class BoundarySamples(Loss):
    """KL(softmax(z_t / T) || softmax(z_s / T)) on images and on images near the teacher's boundary.

    Summed over classes, mean over the images, without T^2. Terms: `clean` for the batch, and
    `boundary` for the `share` of it on which the networks differ most and the teacher is right,
    each image attacked until the teacher takes it for another class than the label. Each is
    multiplied by max(0, 1 - e / (end E)) in epoch e of E: with the weights and ends of the authors'
    configuration (bhheo/BSS_distillation, CIFAR-10, batches of 256) from 4 to 1 and from 2 to 0 at
    three quarters.

    All follows that code, but for two things: pixels are kept within the range of the batch's own,
    channel by channel, not within -2.5 and 2.5, which suit the normalisation of CIFAR; and where
    the teacher is right too rarely, images that are not attacked fill up the share: the student's
    batch norm sees them, the loss does not. AberHu/Knowledge-Distillation-Zoo leaves out `clean`
    (method.weights.bss.clean=0), waits for 10 epochs, has the weight reach zero at 0.8, asks that
    the student be right, too, and attacks probabilities, not logits.

    A step asks the teacher `steps` more times for a share of the batch, forward and backward, also
    when the weight has fallen to zero: looking at it would wait for the device.

    Raises:
        UserError: for a share outside of (0, 1], other numbers that are not above 0, and a single
            class.
    """

    terms = ("clean", "boundary")
    needs_input_gradients = True
    needs_networks = True

    def __init__(
        self,
        context: LossContext,
        temperature: float,
        share: float,
        steps: int,
        step_size: float,
        clean_end: float,
        boundary_end: float,
    ):
        super().__init__(context)
        require_positive("temperature", temperature)
        require(0 < share <= 1, f"share must be above 0 and at most 1, got {share}")
        require(steps >= 1, f"steps must be 1 or more, got {steps}")
        require_positive("step_size", step_size)
        require_positive("clean_end", clean_end)
        require_positive("boundary_end", boundary_end)
        require(
            context.num_classes > 1, f"BSS needs two classes or more, got {context.num_classes}"
        )
        self.temperature, self.share, self.epochs = temperature, share, context.epochs
        self.steps, self.step_size = steps, step_size
        self.clean_end, self.boundary_end = clean_end, boundary_end

    def forward(
        self, student: Output, teacher: Output, batch: Batch, networks: Networks
    ) -> dict[str, Tensor]:
        s, t = student.logits, teacher.logits.detach()
        done = batch.epoch / self.epochs
        return {
            "clean": _falling(done, self.clean_end) * soft_kl(s, t, self.temperature).mean(),
            "boundary": _falling(done, self.boundary_end)
            * self._boundary(student, teacher, batch, networks),
        }

    def _boundary(
        self, student: Output, teacher: Output, batch: Batch, networks: Networks
    ) -> Tensor:
        assert networks.teacher is not None  # needs_teacher
        s, t, image = (x.detach() for x in (student.logits, teacher.logits, batch.image))
        number = max(1, round(self.share * len(image)))
        chosen, right = base_samples(s, t, batch.target, number)
        target = batch.target.index_select(0, chosen)
        limits = image.amin((0, 2, 3), keepdim=True), image.amax((0, 2, 3), keepdim=True)
        attacked = attack(
            networks.teacher,
            image.index_select(0, chosen),
            target,
            sample_rival(t.index_select(0, chosen), target),
            limits,
            self.steps,
            self.step_size,
        )
        s, t = (net(attacked).logits for net in (networks.student, networks.teacher))
        distance = soft_kl(s, t, self.temperature) * right  # [number]
        return distance.sum() / right.sum().clamp(min=1)


def _falling(done: Tensor, end: float) -> Tensor:
    return (1 - done / end).clamp(min=0.0)
