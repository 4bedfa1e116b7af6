"""Knowledge Distillation with Adversarial Samples (Heo et al., 2019), AAAI 2019, arXiv:1805.05532.

Full title: "... Supporting Decision Boundary"; BSS stands for boundary supporting samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_bench.interfaces import (
    Batch,
    ForwardPass,
    Loss,
    LossContext,
    Networks,
    Output,
    require,
    require_positive,
)
from kd_bench.methods.common.functional import soft_kl, unit

OVERSHOOT = 1e-4  # in logits, so that a step onto the boundary crosses it


def base_samples(
    student: Tensor, teacher: Tensor, target: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """The images on which the networks differ most: [B, K], [B, K], [B] -> [number] twice.

    The difference is sum_k (p_t,k - p_s,k)^2 over all classes except the label.

    Returns:
        Indices into the batch by decreasing difference, with images that a network misclassifies
        last, and whether both networks classify each of them correctly.
    """
    own = F.one_hot(target, teacher.shape[1]).bool()
    difference = (teacher.softmax(1) - student.softmax(1)).pow(2).masked_fill(own, 0.0).sum(1)
    right = (teacher.argmax(1) == target) & (student.argmax(1) == target)
    order = difference.masked_fill(~right, -1.0).argsort(descending=True, stable=True)[:number]
    return order, right.index_select(0, order)


def sample_rival(teacher: Tensor, target: Tensor) -> Tensor:
    """Samples a class other than the label by the teacher's probabilities: [B, K], [B] -> [B]."""
    own = F.one_hot(target, teacher.shape[1]).bool()
    # Gumbel-max trick: argmax(log(p) + Gumbel noise) is a sample from p. Logits can replace
    # log(p), since they differ by a constant per image.
    noise = -torch.empty_like(teacher).exponential_().log()
    return (teacher + noise).masked_fill(own, -math.inf).argmax(1)


def attack(
    net: ForwardPass,
    image: Tensor,
    target: Tensor,
    rival: Tensor,
    limits: tuple[Tensor, Tensor],
    steps: int,
    step_size: float,
) -> Tensor:
    """Images [n, 3, H, W] moved towards a rival class until `net` stops predicting the target.

    A step is step_size (z_y - z_r + 1e-4) g / |g| with g = d(z_r - z_y) / dx, y the target and r
    the rival class [n].

    Args:
        limits: smallest and largest allowed pixel value [1, 3, 1, 1].
        steps: number of steps, which are always all taken; early stopping would need a device sync.
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
    """KL(softmax(z_t / T) || softmax(z_s / T)) on images and on images near the decision boundary.

    Summed over classes, mean over images, without T^2. Terms: `clean` on the batch, and `boundary`
    on the `share` of it on which the networks differ most among the images that both classify
    correctly, each attacked until the teacher predicts a class other than the label. Each term is
    multiplied by max(0, 1 - e / (end E)) in epoch e of E: with the weights and ends of the authors'
    configuration (bhheo/BSS_distillation, CIFAR-10, batch size 256), from 4 to 1, and from 2 to 0
    at three quarters of training.

    Follows that code with two deviations. Pixels are clipped to the range of the batch, per
    channel, instead of [-2.5, 2.5], which suits CIFAR's normalization. If too few images are
    classified correctly, the share is filled up with images that are not attacked: they enter the
    student's batch norm, but not the loss. AberHu/Knowledge-Distillation-Zoo omits `clean`
    (method.weights.bss.clean=0), starts after 10 epochs, decreases the weight to zero at 0.8 of
    training, and attacks probabilities instead of logits.

    Each step runs `steps` additional forward and backward passes of the teacher on a share of the
    batch, even after the weight has reached zero, since checking it would synchronize with the
    device.

    Raises:
        UserError: if the share is not in (0, 1], another number is not above 0, or there is only
            one class.
    """

    revision = 2  # 1 also attacked images that only the student misclassifies
    terms = ("clean", "boundary")
    needs_input_gradients = True
    needs_networks = True
    needs_labels = True

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
        self.extra_student_images = share
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
        assert networks.teacher is not None  # guaranteed by needs_teacher
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
