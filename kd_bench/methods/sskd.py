"""Knowledge Distillation Meets Self-Supervision (Xu et al., 2020), ECCV 2020, arXiv:2006.07114."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import Batch, Loss, LossContext, Output, require, require_positive
from kd_bench.methods.common.adapters import ProjectionHead
from kd_bench.methods.common.functional import soft_kl, unit

TURNS = {"turned_90": 1, "turned_180": 2, "turned_270": 3}  # view -> quarter turns


def error_rank(scores: Tensor, correct: Tensor) -> Tensor:
    """Number of alternatives [N, M] that score higher than the correct one [N]: [N], 0 is best."""
    return (scores > scores.gather(1, correct[:, None])).sum(1)


def selected(rank: Tensor, share: float) -> Tensor:
    """Which predictions are good enough to learn from: [N] -> [N] bool.

    All with rank 0, and of the others the `share` (rounded down) with the lowest ranks; ties are
    broken by position.
    """
    wrong = (rank > 0).sum()
    kept = len(rank) - wrong + (share * wrong).floor()
    place = rank.argsort(stable=True).argsort()
    return place < kept


class SelfSupervision(Loss):
    """KL on upright and rotated images, and on the similarity of rotated images to upright ones.

    Each image is used upright and rotated by 90, 180 and 270 degrees. A head of each network
    projects the input of its classifier; S [3B, B] are the cosines between the projections of
    rotated and upright images. Terms, each summed over classes (or columns), mean over images (or
    rows):

    - `teacher_head`: cross entropy of the rows of the teacher's S, where the label is the image's
      own upright view. Used in the init phase to train only the teacher's head, which is frozen
      afterwards. The teacher itself is always frozen.
    - `upright`: T^2 KL(softmax(z_t / T) || softmax(z_s / T)); `turned`: the same on rotated images.
    - `similarity`: the same on the rows of S, with its own temperature.

    The teacher makes mistakes on rotated images, so `turned` and `similarity` use all images (rows)
    that the teacher gets right, and the given share of the others: those in which the label (the
    image's own upright view) has the best rank. Rotations, heads, the four terms and the selection
    are the paper's. The numbers are those of the authors' code (xuguodong03/SSKD): weights,
    temperatures, shares, 60 epochs of the init phase for 240 of the main phase, and no temperature
    in the init phase. Deviations from both: the learning rate of the init phase is constant, while
    they lower it twice; and the student sees flipped images if the dataset's augmentation flips.
    torchdistill uses ten times the weight for cross entropy.

    A batch of B images takes a forward pass of 4B images.

    Raises:
        UserError: if a temperature is not above 0, a share is not in [0, 1], or feature maps are
            not square, since the images cannot be rotated by 90 degrees.
    """

    stages = ("pooled",)
    terms = ("teacher_head", "upright", "turned", "similarity")
    needs_labels = True

    def __init__(
        self,
        context: LossContext,
        temperature: float,
        similarity_temperature: float,
        turned_share: float,
        similarity_share: float,
    ):
        super().__init__(context)
        require_positive("temperature", temperature)
        require_positive("similarity_temperature", similarity_temperature)
        for name, share in (("turned", turned_share), ("similarity", similarity_share)):
            require(0 <= share <= 1, f"{name}_share must be in [0, 1], got {share}")
        _require_square(context)
        self.phase = "main"
        self.temperature, self.similarity_temperature = temperature, similarity_temperature
        self.turned_share, self.similarity_share = turned_share, similarity_share
        self.student_head = ProjectionHead(context.student["pooled"])
        self.teacher_head = ProjectionHead(context.teacher_shapes["pooled"])

    def on_epoch_start(self, phase: str) -> None:
        self.phase = phase

    def extra_views(self, image: Tensor) -> dict[str, Tensor]:
        return {view: torch.rot90(image, turns, (2, 3)) for view, turns in TURNS.items()}

    def forward(self, student: Output, teacher: Output, batch: Batch) -> dict[str, Tensor]:
        own = torch.arange(len(batch.target), device=batch.target.device).repeat(len(TURNS))
        if self.phase == "init":
            return {"teacher_head": F.cross_entropy(_similarity(self.teacher_head, teacher), own)}
        with torch.no_grad():
            t = _similarity(self.teacher_head, teacher)
        s = _similarity(self.student_head, student)
        label = batch.target.repeat(len(TURNS))
        s_turned, t_turned = map(_turned_logits, (student, teacher))
        warm, sharp = self.temperature, self.similarity_temperature
        return {
            "upright": warm**2 * soft_kl(student.logits, teacher.logits, warm).mean(),
            "turned": _selective(s_turned, t_turned, label, self.turned_share, warm),
            "similarity": _selective(s, t, own, self.similarity_share, sharp),
        }


def _selective(s: Tensor, t: Tensor, correct: Tensor, share: float, temperature: float) -> Tensor:
    """T^2 KL, mean over the rows [N, M] in which the teacher is good enough: a scalar."""
    chosen = selected(error_rank(t, correct), share)
    distance = soft_kl(s, t, temperature) * chosen  # [N]
    return temperature**2 * distance.sum() / chosen.sum().clamp(min=1)


def _turned_logits(out: Output) -> Tensor:
    """Logits of the rotated images, rotation by rotation: [3B, K]."""
    return torch.cat([out.views[view].logits for view in TURNS])


def _similarity(head: nn.Module, out: Output) -> Tensor:
    """Cosines between rotated images, rotation by rotation, and upright ones: [3B, B]."""
    turned = torch.cat([out.views[view].features["pooled"] for view in TURNS])
    upright = out.features["pooled"]
    return unit(head(turned), dim=1) @ unit(head(upright), dim=1).T


def _require_square(context: LossContext) -> None:
    for stage, shape in context.student.items():
        is_square = len(shape) != 3 or shape[1] == shape[2]
        require(
            is_square,
            f"SSKD rotates images by 90 degrees, so they must be square; {stage} of "
            f"{context.student.model} is {'x'.join(map(str, shape))}",
        )
