"""Hydra's part of the command line: what was typed becomes jobs, and each job becomes a record."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kd_bench.config import compose
from kd_bench.config.compose import CONFIG_DIR, register_schema
from kd_bench.config.hydra_errors import HydraError, one_line
from kd_bench.sweep import launchers
from kd_bench.utils.errors import UserError, exit_on_user_error
from kd_bench.utils.lock import LOCKED_ELSEWHERE


def main(typed: Sequence[str]) -> None:
    """Run the jobs that were typed, or answer --help and the like."""
    sys.argv[1:] = hydra_arguments(typed)
    _refuse_unknown_flags(sys.argv[1:])
    # Hydra would print several lines about a user's mistake, and cut a bug's traceback short.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register_schema()
    launchers.register()
    with hydra_errors_as_user_errors():
        _hydra_main()


def _refuse_unknown_flags(words: Sequence[str]) -> None:
    """Answer in one line what Hydra would answer with its usage, of many lines."""
    from hydra._internal.utils import get_args_parser  # nothing public tells Hydra's flags

    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; {' '.join(parser.format_usage().split())}")

    parser.error = refuse
    parser.parse_args(words)


@contextmanager
def hydra_errors_as_user_errors() -> Iterator[None]:
    """Turn Hydra's complaints about what a user typed into a `UserError` of one line."""
    try:
        yield
    except HydraError as error:
        raise UserError(one_line(error)) from error


def compose_single(typed: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    """The configuration of the one job that was typed, which is not run."""
    launchers.register()
    with hydra_errors_as_user_errors():
        return compose.compose_standalone(hydra_arguments(typed), config_dir)


def hydra_arguments(typed: Sequence[str]) -> list[str]:
    """What was typed, as Hydra takes it.

    `teacher=NAME`, the one alias, becomes `model@teacher.model=NAME`; -m and --multirun move to
    the front, because Hydra refuses values on both sides of them.
    """
    flags = [text for text in typed if text in ("-m", "--multirun")]
    rest = [text for text in typed if text not in flags]
    return flags + [re.sub(r"^teacher=", "model@teacher.model=", text) for text in rest]


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="config")
def _hydra_main(_: DictConfig) -> None:
    """One job; several go through the launcher instead."""
    with (
        exit_on_user_error(),
        hydra_errors_as_user_errors(),
    ):  # here too, or Hydra adds a line of its own
        config, changed = compose.compose_job(list(HydraConfig.get().overrides.task))
        if HydraConfig.get().runtime.choices["hydra/launcher"] == "plan":
            code = _plan(config, changed)
        else:
            code = _run(config, changed)
    if code:
        sys.exit(code)


def _plan(config: dict, changed: dict) -> int:
    from kd_bench.sweep import dry_run, prepare

    dry_run.print_plan(prepare.prepare_jobs([(config, changed)]), places=1)
    return 0


def _run(config: dict, changed: dict) -> int:
    # torch costs more than a second: --help and completion never come here.
    from kd_bench.cli.progress import JobDisplay
    from kd_bench.jobs import runner, validate
    from kd_bench.training.device import choose_device
    from kd_bench.utils.files import ensure_writable_dir
    from kd_bench.utils.lock import Locked

    validate.validate_job(config)
    choose_device(config["device"])  # cuda is refused before anything is prepared for it
    ensure_writable_dir(Path(config["runs_dir"]))
    show = JobDisplay()
    try:
        record, trained = runner.run(config, changed, show)
    except Locked as owner:
        show.say(f"{runner.label(config, changed)} is being trained by {owner}; left to it")
        return LOCKED_ELSEWHERE
    show.result(runner.label(config, changed), record, trained)
    return 0
