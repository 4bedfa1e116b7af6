"""Hydra's part of the command line: what was typed becomes jobs, which are run or planned."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser  # nothing public lists Hydra's flags
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kd_bench.config import compose
from kd_bench.config.compose import Composed
from kd_bench.config.hydra_errors import HydraError, one_line
from kd_bench.config.schema import Config
from kd_bench.jobs.protocol import LOCKED_ELSEWHERE
from kd_bench.sweep.launchers import registry as launchers
from kd_bench.utils.errors import UserError, exit_on_user_error, require

CONFIG_DIR_FLAGS = ("--config-dir", "-cd")


def main(typed: Sequence[str], *, plan: bool = False) -> int:
    """Run or plan the jobs that were typed, or answer --help and the like; the exit code.

    Args:
        typed: the words of the command line.
        plan: only show what would run.
    """
    words = hydra_arguments(typed)
    _refuse_unknown_flags(words)
    launchers.register()
    if (single := _single_job(words)) is None:
        return _run_hydra(_with_dry_run(words) if plan else words)
    with hydra_errors_as_user_errors():
        composed = compose.compose_standalone(*single)
    return _plan(composed) if plan else _run(composed)


def hydra_arguments(typed: Sequence[str]) -> list[str]:
    """The words as Hydra takes them.

    `teacher=NAME`, the one alias, becomes `model@teacher.model=NAME`; -m and --multirun move to
    the front, because Hydra refuses values on both sides of them.
    """
    flags = [text for text in typed if text in ("-m", "--multirun")]
    rest = [text for text in typed if text not in flags]
    return flags + [re.sub(r"^teacher=", "model@teacher.model=", text) for text in rest]


def compose_single(typed: Sequence[str], config_dir: str | None) -> Config:
    """The configuration of the one job that was typed."""
    launchers.register()
    with hydra_errors_as_user_errors():
        return compose.compose_standalone(hydra_arguments(typed), config_dir)[0]


@contextmanager
def hydra_errors_as_user_errors() -> Iterator[None]:
    """Turn errors of Hydra's about what a user typed into a `UserError` of one line."""
    try:
        yield
    except HydraError as error:
        raise UserError(one_line(error)) from error


def _refuse_unknown_flags(words: Sequence[str]) -> None:
    """Refuse a flag in one line; Hydra would print its usage, which takes many."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; {' '.join(parser.format_usage().split())}")

    parser.error = refuse  # type: ignore[method-assign]  # no option of argparse does this
    parser.parse_args(words)


def _single_job(words: Sequence[str]) -> tuple[list[str], str | None] | None:
    """The overrides of one job and its --config-dir; None where Hydra has to look at the words.

    One job needs Hydra's composition and nothing else of its application: no launcher, no flags.
    """
    overrides, config_dir = [], None
    rest = iter(words)
    for word in rest:
        flag, _, value = word.partition("=")
        if flag in CONFIG_DIR_FLAGS:
            config_dir = value or next(rest, "")
            require(Path(config_dir).is_dir(), f"there is no folder {config_dir} ({flag})")
        elif word.startswith("-") or re.match(r"[+~]*(sweep\b|hydra\b)", word):
            return None
        else:
            overrides.append(word)
    return overrides, config_dir


def _with_dry_run(words: Sequence[str]) -> list[str]:
    """The words with the launcher replaced by the one that only plans.

    Values that were set for the other launcher are kept: the one that plans takes any key.
    """
    named = [word for word in words if word.startswith("hydra/launcher=")]
    rest = [
        re.sub(r"^\+*hydra\.launcher\.", "++hydra.launcher.", w) for w in words if w not in named
    ]
    chosen = [word.partition("=")[2] for word in named[-1:]]
    require(
        set(chosen) <= set(launchers.LAUNCHERS),
        f"unknown hydra/launcher '{''.join(chosen)}'; choose from {', '.join(launchers.LAUNCHERS)}",
    )
    instead_of = [f"hydra.launcher.instead_of={name}" for name in chosen]
    return [*rest, f"hydra/launcher={launchers.DRY_RUN}", *instead_of]


def _run_hydra(words: Sequence[str]) -> int:
    """Run Hydra's application: --help, completion, sweeps."""
    sys.argv[1:] = words
    # Hydra would print several lines about a user's mistake, and cut a bug's traceback short.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    compose.register_schema()
    with hydra_errors_as_user_errors():
        _hydra_main()
    return 0


@hydra.main(version_base="1.3", config_path=compose.CONFIG_DIR, config_name="config")
def _hydra_main(_: DictConfig) -> None:
    """One job with flags or values of Hydra's own; several go through the launcher instead."""
    with exit_on_user_error(), hydra_errors_as_user_errors():  # else Hydra adds a line of its own
        composed = compose.compose_job(list(HydraConfig.get().overrides.task))
        launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
        is_plan = launcher == launchers.DRY_RUN
        require(
            is_plan or launcher == "local",
            f"hydra/launcher={launcher} runs sweeps, and this is one job: add -m",
        )
        code = _plan(composed) if is_plan else _run(composed)
    if code:
        sys.exit(code)


# torch takes seconds to import: --help, completion and mistakes in choices never come here.


def _plan(composed: Composed) -> int:
    from kd_bench.sweep.dry_run import print_plan
    from kd_bench.sweep.prepare import prepare_jobs

    print_plan(prepare_jobs([composed]), slots=1)
    return 0


def _run(composed: Composed) -> int:
    from kd_bench.cli.progress import JobDisplay
    from kd_bench.jobs.resolve import resolve_job
    from kd_bench.jobs.runner import run_with_teacher
    from kd_bench.jobs.validate import validate_job
    from kd_bench.training.device import choose_device
    from kd_bench.utils.files import ensure_writable_dir
    from kd_bench.utils.lock import Locked

    job = resolve_job(*composed)
    if not job.is_done:
        validate_job(job)
        choose_device(job.config.device)  # cuda is refused before anything is prepared for it
        ensure_writable_dir(Path(job.config.runs_dir))
    display = JobDisplay()
    try:
        record, trained = run_with_teacher(job, display)
    except Locked as owner:
        display.message(f"{job.label}: already being trained by {owner}; skipping")
        return LOCKED_ELSEWHERE
    display.result(job.label, record, trained)
    return 0
