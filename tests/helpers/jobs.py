"""Real jobs for tests: composed from conf/ as the command line would, but tiny."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hydra import initialize_config_dir

from kd_bench.config import compose
from kd_bench.jobs import reporter, runner
from kd_bench.sweep import launchers

IMAGES = (
    "dataset=synthetic",
    "dataset.source.train=40",
    "dataset.source.test=24",
    "dataset.source.num_classes=4",
    "dataset.source.size=8",
)
NETS = (
    "pair=resnet20-resnet8_half",
    "model.net.widths=[4,4,8,8]",
    "teacher.model.net.depth=8",
    "recipe=quickstart",
    "recipe.epochs=2",
    "recipe.batch_size=16",
    "teacher.recipe.epochs=1",
    "tensorboard=false",
    "device=cpu",  # on a machine with a GPU, too
)
TINY = (*IMAGES, *NETS)


@contextmanager
def composing() -> Iterator[None]:
    """Where `compose.job` works, as it does inside the program."""
    compose.register_schema()
    launchers.register()
    with initialize_config_dir(compose.CONFIG_DIR, version_base="1.3"):
        yield


@cache
def composed(*overrides: str) -> dict:
    """A job's configuration; not to be changed, as it is kept."""
    with composing():
        return compose.compose_job(overrides)[0]


def job(runs_dir: Path, *overrides: str) -> dict:
    """A tiny job's configuration; `overrides` come last."""
    return {**copy.deepcopy(composed(*TINY, *overrides)), "runs_dir": str(runs_dir)}


def trained(config: dict) -> tuple[dict, Path]:
    """Run a job: its record, and its folder."""
    record, _ = runner.run(config, {}, reporter.Quiet())
    return record, Path(config["runs_dir"]) / record["folder"]
