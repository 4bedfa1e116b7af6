"""Function-Consistent Feature Distillation (Liu, Kan, Shan and Chen, 2023), ICLR 2023."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_bench.interfaces import (
    Batch,
    Loss,
    LossContext,
    Networks,
    Output,
    UserError,
    require,
    require_positive,
)
from kd_bench.methods.common.adapters import map_stages
from kd_bench.methods.common.functional import soft_kl, sum_of


class FunctionConsistency(Loss):
    """mean((B(F_s) - F_t)^2), also after either network's later layers, and KL there; B a bridge.

    The student's features should match the teacher's, and lead to the same outputs in the later
    layers. There is a bridge B per stage and direction: a 3x3 convolution, batch norm and a leaky
    ReLU. A mixed path is one network up to a stage, a bridge, and the other network from there. Of
    the paths of both directions after every stage but the last, each step uses `paths`, drawn
    uniformly without replacement. Terms:

    - `soft`: T^2 KL(t || s), as in `st`.
    - `appearance`: mean squared error of bridged student features, summed over stages; at the last
      stage, also that of the averages over positions of their positive parts.
    - `function`: the same after the teacher's later layers, on the paths that end in the teacher.
    - `mixed`: T^2 KL from the teacher's prediction to that at the end of each path.

    Bridges and numbers are from the authors' code (LiuDongyang6/FCFD). There, the frozen teacher
    normalises with batch statistics; here, with its running statistics. It also cuts WRNs, VGGs and
    some others before a ReLU, with bridges without a leaky ReLU. Neither network's batch
    norm records statistics of a mixed path: in that code, a copy does, which is never read.

    A step's paths are drawn on the host, so it cannot be captured as a CUDA graph. The later layers
    run in single precision.

    Raises:
        UserError: if a stage is not a map, two maps of a stage have sizes other than equal, half or
            double, there are fewer than two stages, or not that many paths.
    """

    terms = ("soft", "appearance", "function", "mixed")
    needs_networks = True
    cuda_graph_safe = False

    def __init__(self, context: LossContext, temperature: float, stages: Sequence[str], paths: int):
        super().__init__(context)
        require_positive("temperature", temperature)
        self.temperature = temperature
        self.stages = map_stages(context, stages)
        self.cuts = self.stages[:-1]
        require(len(self.cuts) > 0, f"stages must be two or more, got {', '.join(self.stages)}")
        most = 2 * len(self.cuts)
        require(0 <= paths <= most, f"paths must be from 0 to {most}, got {paths}")
        self.paths = paths
        self.to_teacher = nn.ModuleDict({s: _bridge(context, s, True) for s in self.stages})
        self.to_student = nn.ModuleDict({s: _bridge(context, s, False) for s in self.cuts})

    def forward(
        self, student: Output, teacher: Output, batch: Batch, networks: Networks
    ) -> dict[str, Tensor]:
        assert networks.student_rest is not None  # a step has both
        assert networks.teacher_rest is not None
        bridged = {s: bridge(student.features[s]) for s, bridge in self.to_teacher.items()}
        function, mixed = [], []
        for stage, is_to_teacher in self._drawn():
            if is_to_teacher:
                later = self.stages[self.stages.index(stage) + 1 :]
                output = networks.teacher_rest(stage, bridged[stage], later)
                function.append(self._appearance(output.features, teacher.features))
            else:
                feature = self.to_student[stage](teacher.features[stage])
                output = networks.student_rest(stage, feature)
            mixed.append(self._divergence(output, teacher))
        none = student.logits.new_zeros(())
        return {
            "soft": self._divergence(student, teacher),
            "appearance": self._appearance(bridged, teacher.features),
            "function": sum_of([none, *function]),
            "mixed": sum_of([none, *mixed]),
        }

    def _drawn(self) -> list[tuple[str, bool]]:
        """This step's paths: the stage of the bridge, and whether the path ends in the teacher."""
        every = [(stage, to_teacher) for stage in self.cuts for to_teacher in (True, False)]
        lots = torch.randperm(len(every), device="cpu")[: self.paths]
        return [every[number] for number in lots.tolist()]

    def _appearance(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """Mean squared errors, summed over the stages in `student` (with the teacher's widths)."""
        last = self.stages[-1]
        errors = [F.mse_loss(student[stage], teacher[stage]) for stage in student]
        s, t = (each[last].relu().mean((2, 3)) for each in (student, teacher))
        return sum_of([*errors, F.mse_loss(s, t)])

    def _divergence(self, output: Output, teacher: Output) -> Tensor:
        kl = soft_kl(output.logits, teacher.logits, self.temperature)
        return self.temperature**2 * kl.mean()


def _bridge(context: LossContext, stage: str, to_teacher: bool) -> nn.Sequential:
    """Maps features of one network to the shape of the other: [B, C, H, W] -> [B, D, J, L]."""
    networks = context.student, context.teacher_shapes
    source, target = networks if to_teacher else reversed(networks)
    (channels_in, height, width), (channels, *size) = source[stage], target[stage]
    if [height, width] == size:
        convolution: nn.Module = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
    elif [height, width] == [2 * side for side in size]:
        convolution = nn.Conv2d(channels_in, channels, 3, stride=2, padding=1)
    elif [2 * height, 2 * width] == size:
        convolution = nn.ConvTranspose2d(channels_in, channels, 4, stride=2, padding=1)
    else:
        raise UserError(
            f"FCFD needs maps of equal size, or one twice as large, but {stage} is {height}x{width}"
            f" in {source.model} and {size[0]}x{size[1]} in {target.model}; use other stages"
        )
    if isinstance(convolution, nn.Conv2d):
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.LeakyReLU(0.1))
