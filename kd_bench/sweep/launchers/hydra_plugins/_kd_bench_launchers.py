"""kd-bench's launchers and sweepers, in the namespace package that Hydra 1.3 loads plugins from.

Hydra instantiates a plugin only if its module's name begins with `hydra_plugins.`. Every Hydra
application scans that namespace; the underscore excludes this module, so kd-bench does not slow
down other applications. kd-bench registers these classes itself at start-up (see
`kd_bench.sweep.launchers.registry`). This folder must not contain an `__init__.py`, because other
plugins share the namespace.
"""

from __future__ import annotations

from kd_bench.sweep.launchers import dry_run, grid_sweeper, local, ray, slurm, tune_sweeper


class LocalLauncher(local.LocalLauncher):
    """`hydra/launcher=local`."""


class SlurmLauncher(slurm.SlurmLauncher):
    """`hydra/launcher=slurm`."""


class RayLauncher(ray.RayLauncher):
    """`hydra/launcher=ray`."""


class DryRunLauncher(dry_run.DryRunLauncher):
    """Replaces each launcher in `kd-bench plan`."""


class GridSweeper(grid_sweeper.GridSweeper):
    """`hydra/sweeper=grid`."""


class TuneSweeper(tune_sweeper.TuneSweeper):
    """`hydra/sweeper=tune`."""
