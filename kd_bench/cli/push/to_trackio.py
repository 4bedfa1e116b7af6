"""Pushes runs to the local database of trackio, in TRACKIO_DIR."""

from __future__ import annotations

import trackio

from kd_bench.cli.push.runs import TrackedRun

CONTENT = "kd_bench_content"  # in a run's configuration
UNFINISHED = " (unfinished)"  # suffix of its name until it is complete


class Target:
    """A project of trackio."""

    def __init__(self, project: str):
        self._project = project

    def push(self, run: TrackedRun) -> bool:
        """Create a run unless it exists; a run with other content is replaced.

        Returns:
            Whether it was created.
        """
        for each in self._runs(run.name):
            if (each.config or {}).get(CONTENT) == run.content:
                return False
            each.delete()
        for each in self._runs(run.name + UNFINISHED):
            each.delete()
        trackio.init(
            project=self._project,
            name=run.name + UNFINISHED,
            group=run.group,
            config={**run.config, **run.labels, CONTENT: run.content},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        for epoch, values in run.curves:
            trackio.log(values, step=epoch)
        trackio.log(run.metrics, step=run.curves[-1][0] if run.curves else 0)
        trackio.finish()
        for each in self._runs(run.name + UNFINISHED):
            each.rename(run.name)
        return True

    def close(self) -> list[str]:
        """Lines about what the user may do next."""
        return [f"view them: trackio show --project {self._project}"]

    def _runs(self, name: str) -> list[trackio.api.Run]:
        try:
            return [run for run in trackio.Api().runs(self._project) if run.name == name]
        except ValueError:  # there is no such project yet
            return []
