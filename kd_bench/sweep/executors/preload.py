"""Imports everything that jobs may need, once, in the process from which they are forked.

So all forks of a sweep run the same code, even if files are edited meanwhile; the version of the
code is read here for the same reason. A job with several processes starts new ones, which import
the files, and read the version, as they are then. torchvision is not imported: it takes a second,
and few jobs need it.
"""

from __future__ import annotations

from kd_bench.utils.own_modules import leave_out_current_folder

leave_out_current_folder()

# ruff: noqa: E402  # after the line above
from importlib import import_module
from pkgutil import walk_packages

from kd_bench import data, methods, models
from kd_bench.jobs import runner, tensorboard
from kd_bench.jobs.record import code_version
from kd_bench.sweep.executors import fork_server

__all__ = ["PRELOADED", "fork_server", "runner", "tensorboard"]

PRELOADED = [
    import_module(module.name)
    for package in (methods, models, data)
    for module in walk_packages(package.__path__, f"{package.__name__}.")
]
code_version()  # cached for all forks
