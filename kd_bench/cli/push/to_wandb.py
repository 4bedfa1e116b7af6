"""Writes runs for Weights & Biases, offline: `wandb sync` uploads them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import wandb

from kd_bench.cli.push.runs import TrackedRun


class Target:
    """The folder `wandb`, in WANDB_DIR or the current folder."""

    def __init__(self, project: str):
        self._project = project
        self._folder = Path(os.environ.get("WANDB_DIR", "."), "wandb")
        self._folder.mkdir(parents=True, exist_ok=True)

    def push(self, run: TrackedRun) -> bool:
        """Write a run unless it exists; a run with other content becomes a separate run.

        Returns:
            Whether it was written.
        """
        identifier = f"kd{run.content}"
        if any(self._folder.glob(f"offline-run-*-{identifier}")):
            return False
        # Written elsewhere and then moved, so that the folder only has complete runs.
        with tempfile.TemporaryDirectory(prefix=".push", dir=self._folder) as beside:
            self._write(run, identifier, beside)
            for folder in Path(beside, "wandb").glob("offline-run-*"):
                folder.rename(self._folder / folder.name)
        return True

    def close(self) -> list[str]:
        """Lines about what the user may do next."""
        return [f"upload them: wandb sync {self._folder}/offline-run-*"]

    def _write(self, run: TrackedRun, identifier: str, folder: str) -> None:
        made = wandb.init(
            mode="offline",
            dir=folder,
            id=identifier,
            project=self._project,
            name=run.name,
            group=run.group,
            job_type=run.labels["method"],
            config={**run.config, **run.labels},
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        for epoch, values in run.curves:
            made.log(values, step=epoch)
        made.summary.update(run.metrics)
        made.finish()
