"""The command line: what was typed becomes jobs, through Hydra, and each job becomes a record."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kd_bench import compose, launchers
from kd_bench.errors import UserError
from kd_bench.explain import Complaint, explain

LOCKED_ELSEWHERE = 75


def main() -> None:
    """The program `kd-bench`, and `python -m kd_bench`."""
    # A console script does not look in the current folder, where a user's own losses lie.
    sys.path.insert(0, os.getcwd())
    sys.argv[1:] = hydra_arguments(sys.argv[1:])
    # Hydra would print several lines about a user's mistake, and cut a bug's traceback short.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    compose.register_schema()
    launchers.register()
    try:
        with _one_line_each():
            _hydra_main()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _one_line_each() -> Iterator[None]:
    """Answer a user's mistake, and a job that diverged, with a line; other errors are bugs."""
    try:
        yield
    except UserError as error:
        message, code = str(error), 2
    except Complaint as error:
        message, code = explain(error), 2
    except FloatingPointError as error:
        message, code = str(error), 1
    else:
        return
    print(f"kd-bench: {message}", file=sys.stderr)
    sys.exit(code)


def hydra_arguments(arguments: list[str]) -> list[str]:
    """What was typed, as Hydra takes it.

    `teacher=NAME`, the one alias, becomes `model@teacher.model=NAME`; -m and --multirun move to
    the front, because Hydra refuses values on both sides of them.
    """
    flags = [text for text in arguments if text in ("-m", "--multirun")]
    rest = [text for text in arguments if text not in flags]
    return flags + [re.sub(r"^teacher=", "model@teacher.model=", text) for text in rest]


@hydra.main(version_base="1.3", config_path=compose.CONFIG_DIR, config_name="config")
def _hydra_main(_: DictConfig) -> None:
    """One job; several go through the launcher instead."""
    with _one_line_each():  # here too, or Hydra adds a line of its own
        code = _run(*compose.job(list(HydraConfig.get().overrides.task)))
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
        show.say(f"{run.label(config, changed)} is being trained by {owner}; left to it")
        return LOCKED_ELSEWHERE
    show.result(run.label(config, changed), record, trained)
    return 0
