"""kd-bench's launchers and sweepers, in the namespace package from which Hydra 1.3 takes plugins.

Hydra instantiates a plugin only if its module's name begins with `hydra_plugins.`. The underscore
keeps this module out of the scan that every Hydra application makes of that namespace, so kd-bench
costs other applications nothing; its own start-up registers these classes instead (see
`kd_bench.sweep.launchers.registry`). There must be no `__init__.py` in this folder: other plugins
share the namespace.
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
    """Each of them in `kd-bench plan`."""


class GridSweeper(grid_sweeper.GridSweeper):
    """`hydra/sweeper=grid`."""


class TuneSweeper(tune_sweeper.TuneSweeper):
    """`hydra/sweeper=tune`."""
