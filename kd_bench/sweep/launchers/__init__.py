"""Hydra's plugins of this project, and how Hydra comes to know them."""

from __future__ import annotations

import importlib
import sys
import types

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from kd_bench.sweep.launchers import dry_run, grid_sweeper, local, ray, slurm
from kd_bench.sweep.launchers.dry_run import DryRunConfig, DryRunLauncher
from kd_bench.sweep.launchers.grid_sweeper import GridConfig, GridSweeper
from kd_bench.sweep.launchers.local import LocalConfig, LocalLauncher
from kd_bench.sweep.launchers.ray import RayConfig, RayLauncher
from kd_bench.sweep.launchers.slurm import SlurmConfig, SlurmLauncher

# By the name that `hydra/launcher=NAME` has for it.
LAUNCHERS = {
    "local": (local, LocalLauncher, LocalConfig),
    "ray": (ray, RayLauncher, RayConfig),
    "slurm": (slurm, SlurmLauncher, SlurmConfig),
}

DRY_RUN = "dry_run"  # the launcher of `kd-bench plan`


def register() -> None:
    """Make the launchers, the one that plans, and `hydra/sweeper=grid` known."""
    for name, (module, launcher, config) in LAUNCHERS.items():
        _register(module, launcher, "hydra/launcher", name, config)
    _register(dry_run, DryRunLauncher, "hydra/launcher", DRY_RUN, DryRunConfig)
    _register(grid_sweeper, GridSweeper, "hydra/sweeper", "grid", GridConfig)


def _register(module: types.ModuleType, plugin: type, group: str, name: str, config: type) -> None:
    """Register a plugin under an alias of its module: Hydra 1.3 takes them from `hydra_plugins`."""
    alias = f"kd_bench_{name}"
    try:
        namespace = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        namespace = types.ModuleType("hydra_plugins")
        namespace.__path__ = []
        sys.modules["hydra_plugins"] = namespace
    sys.modules[f"hydra_plugins.{alias}"] = module
    setattr(namespace, alias, module)
    plugin.__module__ = f"hydra_plugins.{alias}"
    Plugins.instance().register(plugin)
    ConfigStore.instance().store(group=group, name=name, node=config, provider="kd_bench")
