"""Registers the launchers and sweepers with Hydra under their short names."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from hydra_plugins import _kd_bench_launchers as plugins

from kd_bench.sweep.launchers.base import SweepConfig
from kd_bench.sweep.launchers.dry_run import dry_run_config
from kd_bench.sweep.launchers.grid_sweeper import GridConfig
from kd_bench.sweep.launchers.local import LocalConfig
from kd_bench.sweep.launchers.ray import RayConfig
from kd_bench.sweep.launchers.slurm import SlurmConfig
from kd_bench.sweep.launchers.tune_sweeper import TuneConfig

# hydra/launcher=NAME
LAUNCHERS: dict[str, tuple[type[Plugin], type[SweepConfig]]] = {
    "local": (plugins.LocalLauncher, LocalConfig),
    "ray": (plugins.RayLauncher, RayConfig),
    "slurm": (plugins.SlurmLauncher, SlurmConfig),
}


def register(*, dry_run: bool = False) -> None:
    """Register the launchers and sweepers with Hydra in this process.

    This is not done on import of a plugin, so that `hydra/launcher=ray` keeps its meaning in other
    Hydra applications of the same environment.

    Args:
        dry_run: each launcher accepts its usual settings, but only shows what it would run.
    """
    for name, (plugin, config) in LAUNCHERS.items():
        if dry_run:
            plugin, config = plugins.DryRunLauncher, dry_run_config(config)
        _register("hydra/launcher", name, plugin, config)
    _register("hydra/sweeper", "grid", plugins.GridSweeper, GridConfig)
    _register("hydra/sweeper", "tune", plugins.TuneSweeper, TuneConfig)


def _register(group: str, name: str, plugin: type[Plugin], config: type) -> None:
    Plugins.instance().register(plugin)
    ConfigStore.instance().store(group=group, name=name, node=config, provider="kd_bench")
