"""Pushes runs to MLflow: to the server or database in MLFLOW_TRACKING_URI, or to mlflow.db."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from kd_bench.cli.push.runs import TrackedRun

FOLDER, CONTENT = "kd-bench folder", "kd-bench content"  # tags; the second is set last
BATCH = 100  # entries per request, MLflow's limit for parameters


class Target:
    """An experiment in MLflow."""

    def __init__(self, project: str):
        self._client = MlflowClient()
        experiment = self._client.get_experiment_by_name(project)
        self._id = (
            experiment.experiment_id if experiment else self._client.create_experiment(project)
        )

    def push(self, run: TrackedRun) -> bool:
        """Create a run unless it exists; a run with other content is replaced.

        Returns:
            Whether it was created.
        """
        found = self._client.search_runs([self._id], f"tags.`{FOLDER}` = '{run.name}'")
        if any(each.data.tags.get(CONTENT) == run.content for each in found):
            return False
        for each in found:
            self._client.delete_run(each.info.run_id)
        self._make(run)
        return True

    def close(self) -> list[str]:
        """Lines about what the user may do next."""
        return []

    def _make(self, run: TrackedRun) -> None:
        end = round(run.finished * 1000)
        tags = {**run.labels, "group": run.group, FOLDER: run.name}
        made = self._client.create_run(
            self._id, start_time=end - round(run.seconds * 1000), tags=tags, run_name=run.name
        )
        identifier = made.info.run_id
        for part in _parts([Param(name, str(value)) for name, value in run.config.items()]):
            self._client.log_batch(identifier, params=part)
        metrics = [Metric(name, value, end, 0) for name, value in run.metrics.items()]
        metrics += [
            Metric(name, value, end, epoch)
            for epoch, values in run.curves
            for name, value in values.items()
        ]
        for part in _parts(metrics):
            self._client.log_batch(identifier, metrics=part)
        self._client.set_tag(identifier, CONTENT, run.content)
        self._client.set_terminated(identifier, end_time=end)


def _parts(entries: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(entries), BATCH):
        yield entries[start : start + BATCH]
