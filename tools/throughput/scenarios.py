"""The measured jobs, and the candidates that run each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_bench.config.schema import Config, Precision
from kd_bench.data.dataset import Data
from kd_bench.jobs.instantiate import build_network
from kd_bench.jobs.job import Job
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.validate import cache_shape
from throughput.comparison import Candidate
from throughput.loops import OURS, OURS_CACHED, PLAIN, TUNED


@dataclass(frozen=True)
class Scenario:
    """A measured job.

    Args:
        student, teacher, method: names in conf/; the teacher is only used if the method needs one.
        batch: images per step.
        packed: numbers of jobs to run at once.
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
        """The job as typed on the command line."""
        return [
            f"model={self.student}",
            f"model@teacher.model={self.teacher}",
            f"method={self.method}",
            "recipe=crd240",
            f"recipe.batch_size={self.batch}",
            "tensorboard=false",
        ]


def candidates(
    job: Job, scenario: Scenario, *, has_gpu: bool, cores: int, loader_workers: int
) -> list[Candidate]:
    """The plain loop, then the tuned one, then kd-bench in all its variants.

    Args:
        job: the scenario's job.
        scenario: the scenario.
        has_gpu: also try bfloat16.
        cores: CPU cores, shared by jobs that run at once.
        loader_workers: DataLoader workers of the plain and the tuned loop.
    """
    bf16: dict[str, Any] = {"precision": Precision.bf16} if has_gpu else {}
    compiled = with_config(job, compile=True, **bf16)
    suffix = ", bf16" if has_gpu else ""
    # By default, PyTorch runs convolutions on a GPU in TF32.
    plain_precision, tuned_precision = ("tf32", "bf16") if has_gpu else (None, None)
    result = [
        Candidate(PLAIN, PLAIN, job, 1, loader_workers, plain_precision),
        Candidate(TUNED, TUNED, job, 1, loader_workers, tuned_precision),
        Candidate("ours", OURS, job),
    ]
    if has_gpu:
        result.append(Candidate("ours, bf16", OURS, with_config(job, **bf16)))
    result.append(Candidate(f"ours{suffix}, compiled", OURS, compiled))
    if cache_shape(job) is not None:  # named like the option, teacher.source=table
        result.append(Candidate("ours, table", OURS_CACHED, job))
        result.append(Candidate(f"ours{suffix}, table, compiled", OURS_CACHED, compiled))
    best = result[-1]
    for count in scenario.packed:
        packed = with_config(best.job, threads=max(1, cores // count))
        result.append(Candidate(f"{count} jobs: {best.name}", best.kind, packed, count))
    return result


def with_config(job: Job, **values: Any) -> Job:
    """The job with other values of its configuration."""
    return resolve_job(replace(job.config, **values), job.changed)


def write_teacher(config: Config, data: Data, path: Path) -> None:
    """Save an untrained teacher with real batch-norm statistics, as fast as a trained one."""
    torch.manual_seed(0)
    net = build_network(config.teacher.model, data).net
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # average over all batches
    index = torch.arange(min(256, data.train_size))
    with torch.no_grad():
        for part in index.split(64):
            net(data.augmented_batch(part, data.sample_views(part, 1, 0)))
    torch.save(net.state_dict(), path)
