"""Hydra's plugins of this project, and how Hydra comes to know them."""

from __future__ import annotations

import importlib
import sys
import types

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from kd_bench.launchers import grid, local, plan, ray, slurm

# By the name that `hydra/launcher=NAME` has for it.
LAUNCHERS = {
    "local": (local, local.LocalLauncher, local.LocalConfig),
    "ray": (ray, ray.RayLauncher, ray.RayConfig),
    "slurm": (slurm, slurm.SlurmLauncher, slurm.SlurmConfig),
}


def register() -> None:
    """Make the launchers, the one that plans, and `hydra/sweeper=grid` known."""
    for name, (module, launcher, config) in LAUNCHERS.items():
        _register(module, launcher, "hydra/launcher", name, config)
    _register(plan, plan.PlanLauncher, "hydra/launcher", "plan", plan.PlanConfig)
    _register(grid, grid.GridSweeper, "hydra/sweeper", "grid", grid.GridConfig)


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
