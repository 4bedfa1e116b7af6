"""The command line: what was typed becomes jobs, through Hydra, and each job becomes a record."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kd_bench import compose
from kd_bench.errors import UserError
from kd_bench.launchers import local

LOCKED_ELSEWHERE = 75


def main() -> None:
    """The program `kd-bench`, and `python -m kd_bench`."""
    # A console script does not look in the current folder, where a user's own losses lie.
    sys.path.insert(0, os.getcwd())
    sys.argv[1:] = [expand_alias(argument) for argument in sys.argv[1:]]
    compose.register_schema()
    local.register()
    try:
        _hydra_main()
    except UserError as error:
        sys.exit(f"kd-bench: {error}")


def expand_alias(argument: str) -> str:
    """`teacher=NAME`, the one alias, as Hydra spells it: `model@teacher.model=NAME`."""
    name, equals, value = argument.partition("=")
    return f"model@teacher.model={value}" if (name, equals) == ("teacher", "=") else argument


@hydra.main(version_base="1.3", config_path=compose.CONFIG_DIR, config_name="config")
def _hydra_main(_: DictConfig) -> None:
    """One job; several go through the launcher instead."""
    overrides = list(HydraConfig.get().overrides.task)
    try:
        config, changed = compose.job(overrides)
        code = _run(config, changed)
    except UserError as error:
        print(f"kd-bench: {error}", file=sys.stderr)
        code = 2
    if code:
        sys.exit(code)


def _run(config: dict, changed: dict) -> int:
    # torch costs more than a second: --help and completion never come here.
    from kd_bench import build, run
    from kd_bench.display import JobDisplay
    from kd_bench.records import Locked

    build.check(config)
    show = JobDisplay()
    try:
        record, trained = run.run(config, changed, show)
    except Locked as owner:
        show.say(f"{run.label(config)} is being trained by {owner}; left to it")
        return LOCKED_ELSEWHERE
    show.result(run.label(config), record, trained)
    return 0
