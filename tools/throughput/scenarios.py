"""What competes: a job, and the ways in which it may be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_bench.data.dataset import Data
from kd_bench.jobs import instantiate
from kd_bench.jobs.validate import cache_shape
from throughput.contest import Candidate

PLAIN, TUNED, OURS, TABLE = "plain", "tuned", "ours", "ours with a table"


@dataclass(frozen=True)
class Scenario:
    """A job whose speed is asked for.

    Args:
        student, teacher, method: names of conf/; the method decides whether there is a teacher.
        batch: images of a step.
        packed: numbers of jobs to be run at once.
    """

    student: str
    teacher: str
    method: str
    batch: int
    packed: tuple[int, ...]

    @property
    def name(self) -> str:
        """resnet56 > resnet20, st, batch 64; without a teacher resnet20, baseline, batch 1024."""
        pair = self.student if self.method == "baseline" else f"{self.teacher} > {self.student}"
        return f"{pair}, {self.method}, batch {self.batch}"

    def overrides(self) -> list[str]:
        """What to type for this job."""
        return [
            f"model={self.student}",
            f"model@teacher.model={self.teacher}",
            f"method={self.method}",
            "recipe=crd240",
            f"recipe.batch_size={self.batch}",
            "tensorboard=false",
        ]


def candidates(
    config: Mapping[str, Any], scene: Scenario, *, has_gpu: bool, cores: int, workers: int
) -> list[Candidate]:
    """The plain loop first, then the tuned one, then kd-bench's own in all its ways.

    Args:
        config: the scene's job.
        scene: which numbers of jobs are packed.
        has_gpu: with one, there is bfloat16 to try, and threads do not matter.
        cores: that packed jobs share.
        workers: processes that load images for each of the other loops.
    """
    bf16 = {"precision": "bf16"} if has_gpu else {}
    compiled = {"compile": True, **bf16}
    words = ", bf16" if has_gpu else ""
    found = [
        # PyTorch as it comes lets a GPU's convolutions round to TF32.
        Candidate("plain", PLAIN, config, workers=workers, precision="tf32" if has_gpu else None),
        Candidate("tuned", TUNED, config, workers=workers, precision="bf16" if has_gpu else None),
        Candidate("ours", OURS, config),
    ]
    if has_gpu:
        found.append(Candidate("ours, bf16", OURS, {**config, **bf16}))
    found.append(Candidate(f"ours{words}, compiled", OURS, {**config, **compiled}))
    if cache_shape(config) is not None:
        found.append(Candidate("ours, table", TABLE, config))
        name = f"ours{words}, table, compiled"
        found.append(Candidate(name, TABLE, {**config, **compiled}))
    best = found[-1]
    for jobs in scene.packed:
        job = {**best.config, "threads": max(1, cores // jobs)}
        found.append(Candidate(f"{jobs} jobs: {best.name}", best.kind, job, jobs))
    return found


def write_teacher(config: Mapping[str, Any], data: Data, path: Path) -> None:
    """A teacher that has learnt nothing but its batch-norm statistics: as fast as any other."""
    torch.manual_seed(0)
    net = instantiate.build_network(config["teacher"]["model"], data.num_classes).net
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    index = torch.arange(min(256, data.train_size))
    with torch.no_grad():
        for some in index.split(64):
            net(data.augment(some, 1, 0))
    torch.save(net.state_dict(), path)
