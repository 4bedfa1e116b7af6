"""The sweeper for a plain grid: all combinations of the values typed and those in conf/sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from kd_bench.utils.errors import require


@dataclass
class GridConfig:
    """hydra.sweeper of `hydra/sweeper=grid`."""

    _target_: str = "hydra_plugins._kd_bench_launchers.GridSweeper"
    params: dict[str, Any] = field(default_factory=dict)  # group or key -> comma-separated values


class GridSweeper(Sweeper):
    """Passes all combinations to the launcher at once.

    Hydra's basic sweeper composes every job before the launcher composes it again, and writes a
    file multirun.yaml. Here, only its product of the values is used.
    """

    def __init__(self, params: dict[str, Any]):
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Instantiate the launcher; Hydra calls this before `sweep`."""
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Launch all combinations of the sweep file's values; typed values override these."""
        return [self.launcher.launch(self.combinations(arguments), initial_job_idx=0)]

    def combinations(self, arguments: list[str]) -> Sequence[Sequence[str]]:
        """The overrides of each job."""
        given = [*(f"{key}={values}" for key, values in self.params.items()), *arguments]
        overrides = self.parser.parse_overrides(given)
        for override in overrides:
            _require_values(override)
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        return jobs


def _require_values(override: Override) -> None:
    """Refuse an interval or an empty list of values: a grid needs a finite list."""
    line, key = override.input_line, override.key_or_group
    require(
        not override.is_interval_sweep(),
        f"{line}: a grid needs single values; list them, as in {key}=0.1,0.2, or give the step, as"
        f" in {key}=range(0.1,0.5,0.1)",
    )
    is_empty = override.is_sweep_override() and not list(override.sweep_string_iterator())
    require(not is_empty, f"{line} gives no value; kd-bench --help lists the available ones")
