"""Hydra's launcher for one machine: composes and freezes a sweep's jobs, and runs them in slots."""

from __future__ import annotations

import hashlib
import importlib
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kd_bench import compose
from kd_bench.errors import UserError

_NAME = "hydra_plugins.kd_bench_local"  # Hydra 1.3 takes launchers only from this namespace


@dataclass
class LocalConfig:
    """hydra.launcher of `hydra/launcher=local`."""

    _target_: str = f"{_NAME}.LocalLauncher"
    jobs_per_gpu: int = 1
    jobs_at_once: int | None = None  # None: as many as there are GPUs, or cores / threads


class LocalLauncher(Launcher):
    """One process per job, pinned to its GPU or cores."""

    def __init__(self, jobs_per_gpu: int, jobs_at_once: int | None):
        self.jobs_per_gpu, self.jobs_at_once = jobs_per_gpu, jobs_at_once

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep the sweep's configuration; Hydra calls this before `launch`."""
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs; leaves with an exit code where some failed."""
        from kd_bench import sweep  # imports torch, which --help does without
        from kd_bench.display import SweepDisplay

        try:
            jobs = sweep.freeze(compose.jobs(job_overrides))
            first = jobs[0].config
            slots = sweep.make_slots(
                first["device"], first["threads"], self.jobs_per_gpu, self.jobs_at_once
            )
            code = sweep.run_sweep(jobs, self._name(job_overrides), slots, SweepDisplay(len(jobs)))
        except UserError as error:
            print(f"kd-bench: {error}", file=sys.stderr)
            code = 2
        if code:
            sys.exit(code)  # a failed JobReturn would make Hydra print its traceback
        return []

    def _name(self, job_overrides: Sequence[Sequence[str]]) -> str:
        """The sweep file's name, or a digest of what was typed instead."""
        text = "\n".join(" ".join(overrides) for overrides in job_overrides)
        chosen = self.config.hydra.runtime.choices.get("sweep")
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{chosen or 'command-line'}-{digest}"


def register() -> None:
    """Make `hydra/launcher=local` known; an application has no other way in Hydra 1.3."""
    try:
        namespace = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        namespace = types.ModuleType("hydra_plugins")
        namespace.__path__ = []
        sys.modules["hydra_plugins"] = namespace
    this = sys.modules[__name__]
    sys.modules[_NAME] = this
    setattr(namespace, _NAME.rpartition(".")[2], this)
    LocalLauncher.__module__ = _NAME
    Plugins.instance().register(LocalLauncher)
    ConfigStore.instance().store(
        group="hydra/launcher", name="local", node=LocalConfig, provider="kd_bench"
    )
