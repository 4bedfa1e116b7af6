"""Hydra's part of the command line: turns its arguments into jobs, which are run or planned."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser  # there is no public list of Hydra's flags
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from kd_bench.config import compose
from kd_bench.config.compose import Composed
from kd_bench.config.hydra_errors import HydraError, one_line
from kd_bench.config.schema import Config
from kd_bench.config.typed import check_typed
from kd_bench.jobs.protocol import LOCKED_ELSEWHERE
from kd_bench.sweep.launchers import registry as launchers
from kd_bench.utils.errors import UserError, exit_on_error, failure_reason, require
from kd_bench.utils.tracebacks import raised_by_hydra

CONFIG_DIR_FLAGS = ("--config-dir", "-cd")
ALIASES = {"teacher": "model@teacher.model", "assistant": "model@assistant"}


def _make_text(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """Convert a help text that is not a string."""
    if action.help is not None and not isinstance(action.help, str):
        action.help = str(action.help).replace("%", "%%")


# From Python 3.14, argparse checks help texts when options are added. One of Hydra 1.3's is not a
# string, so that its parser could not be made.
if hasattr(argparse.ArgumentParser, "_check_help"):
    argparse.ArgumentParser._check_help = _make_text


def main(typed: Sequence[str], *, plan: bool = False) -> int:
    """Run or plan jobs, or handle flags such as --help; return the exit code.

    Args:
        typed: the words of the command line.
        plan: only show what would run.
    """
    words = hydra_arguments(typed)
    overrides = _check_flags(words)
    with hydra_errors_as_user_errors():
        check_typed(overrides)
    if plan:
        _refuse_other_launchers(overrides)
    launchers.register(dry_run=plan)
    if not _is_plain_job(words):
        return _run_hydra(words, plan)
    with hydra_errors_as_user_errors():
        composed = compose.compose_standalone(words, None)
    return _plan(composed) if plan else _run(composed)


def hydra_arguments(typed: Sequence[str]) -> list[str]:
    """The words as Hydra expects them.

    `teacher=NAME` becomes `model@teacher.model=NAME`, and `assistant=NAME` becomes
    `model@assistant=NAME`. Flags move to the front, because Hydra refuses overrides on both sides
    of a flag.
    """
    known = get_args_parser()._option_string_actions
    flags: list[str] = []
    rest: list[str] = []
    words = list(typed)
    while words:
        word = words.pop(0)
        if (flag := known.get(word.partition("=")[0])) is None:
            key, equals, value = word.partition("=")
            rest.append(f"{ALIASES.get(key, key)}={value}" if equals else word)
        elif "=" not in word and (
            flag.nargs is None or (words[:1] and words[0] in (flag.choices or ()))
        ):
            flags += [word, *words[:1]]
            del words[:1]
        else:  # --info would consume any next word, unless it has a value
            flags.append(f"{word}={flag.const}" if flag.nargs == "?" and "=" not in word else word)
    return flags + rest


def compose_single(typed: Sequence[str], config_dir: str | None) -> Config:
    """The configuration of a single job."""
    launchers.register()
    with hydra_errors_as_user_errors():
        return compose.compose_standalone(hydra_arguments(typed), config_dir)[0]


@contextmanager
def hydra_errors_as_user_errors() -> Iterator[None]:
    """Turn Hydra's errors about a user's input into a `UserError` of one line."""
    try:
        yield
    except HydraError as error:
        raise UserError(one_line(error)) from error


def _check_flags(words: Sequence[str]) -> list[str]:
    """Refuse invalid flags with a one-line error; Hydra would print its usage or a traceback.

    Returns:
        The words that are not flags.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; {' '.join(parser.format_usage().split())}")

    parser.error = refuse  # type: ignore[method-assign]  # argparse has no option for this
    flags = parser.parse_args(words)
    for is_wrong, message in (
        (flags.experimental_rerun, "--experimental-rerun: use kd-bench rerun RECORD instead"),
        (
            flags.config_name or flags.config_path,
            "kd-bench has one configuration; add your own files with --config-dir DIR",
        ),
        (
            not flags.cfg and (flags.package or (flags.resolve and not flags.help)),
            "--package and --resolve apply to the output of --cfg: add --cfg job",
        ),
        (
            flags.multirun and (flags.cfg or flags.info),
            "--cfg and --info apply to one job: leave out -m",
        ),
        (
            flags.multirun and "hydra.mode=RUN" in flags.overrides,
            "hydra.mode=RUN means one job, and -m several: leave out one of them",
        ),
    ):
        require(not is_wrong, message)
    return [] if flags.shell_completion else flags.overrides


def _refuse_other_launchers(overrides: Sequence[str]) -> None:
    """Refuse Hydra's own launchers for a plan: they would run the jobs."""
    for word in overrides:
        group, _, name = word.partition("=")
        require(
            group != "hydra/launcher" or name in launchers.LAUNCHERS,
            f"unknown hydra/launcher '{name}'; choose from {', '.join(launchers.LAUNCHERS)}",
        )


def _is_plain_job(words: Sequence[str]) -> bool:
    """Whether the words are one job with only kd-bench's own files and values.

    Such a job needs Hydra's composition, but not Hydra's application, which would double the
    start-up time. A user's files (--config-dir) need it, because they may choose a sweep or a
    launcher.
    """
    return not any(
        re.match(r"-|[+~]*(sweep|hydra)\b", word) or "${hydra:" in word for word in words
    )


def _run_hydra(words: Sequence[str], plan: bool) -> int:
    """Run Hydra's application: --help, completion, sweeps."""
    sys.argv[1:] = words
    compose.register_schema()

    @hydra.main(version_base="1.3", config_path=compose.CONFIG_DIR, config_name="config")
    def application(_: DictConfig) -> None:
        with exit_on_error(), hydra_errors_as_user_errors():  # otherwise Hydra adds its own line
            _one_job(plan)

    # Hydra would print several lines for a user's mistake, and truncate the traceback of a bug.
    with hydra_errors_as_user_errors(), raised_by_hydra():
        application()
    return 0


def _one_job(plan: bool) -> None:
    """Run one job with Hydra's flags or settings; several jobs go through the launcher instead."""
    composed = compose.compose_job(list(HydraConfig.get().overrides.task))
    launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
    is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN  # with a launcher that is not kd-bench's
    require(
        plan or is_sweep or launcher == "local",
        f"hydra/launcher={launcher} runs sweeps, but this is one job: add -m",
    )
    if code := _plan(composed) if plan else _run(composed):
        sys.exit(code)


# torch takes seconds to import: --help, completion and invalid choices never get here.


def _plan(composed: Composed) -> int:
    from kd_bench.sweep.dry_run import print_plan
    from kd_bench.sweep.prepare import prepare_jobs

    print_plan(prepare_jobs([composed]), slots=1)
    return 0


def _run(composed: Composed) -> int:
    from kd_bench.cli.common.progress import JobDisplay
    from kd_bench.jobs.resolve import resolve_job
    from kd_bench.jobs.runner import run_with_teacher
    from kd_bench.jobs.validate import validate_job
    from kd_bench.training.device import check_processes, choose_device
    from kd_bench.utils.files import ensure_writable_dir
    from kd_bench.utils.lock import Locked
    from kd_bench.utils.process import check_threads

    job = resolve_job(*composed)
    if not job.is_done:
        validate_job(job)
        # refuses cuda without a GPU before anything is prepared
        device = choose_device(job.config.device)
        check_threads(job.config.threads)
        check_processes(device, job.config.gpus_per_job, job.config.threads)
        ensure_writable_dir(Path(job.config.runs_dir))
    display = JobDisplay()
    try:
        record, trained = run_with_teacher(job, display)
    except Locked as owner:
        display.message(f"{job.label}: already being trained by {owner}; skipping")
        return LOCKED_ELSEWHERE
    except SystemExit as end:  # its exit code would be mistaken for one of kd-bench's
        raise UserError(f"{job.label}: {failure_reason(end)}") from end
    display.result(job.label, record, trained)
    return 0
