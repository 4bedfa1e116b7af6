"""Imports everything that jobs may need, once, in the process from which they are forked.

So all jobs of a sweep run the same code, even if files are edited meanwhile; the version of the
code is read here for the same reason. torchvision is not imported: it takes a second, and few jobs
need it.
"""

from __future__ import annotations

from kd_bench.utils.own_modules import leave_out_current_folder

leave_out_current_folder()

# ruff: noqa: E402  # after the line above
from importlib import import_module
from pkgutil import iter_modules

from kd_bench import data, methods, models
from kd_bench.jobs import runner, tensorboard
from kd_bench.jobs.record import code_version

__all__ = ["PRELOADED", "runner", "tensorboard"]

PRELOADED = [
    import_module(f"{package.__name__}.{module.name}")
    for package in (methods, models, data)
    for module in iter_modules(package.__path__)
]
code_version()  # cached for all forks
