"""Tab completion: Hydra's own, extended by kd-bench's commands.

A shell calls `kd-bench -sc query=SHELL` with the current line in COMP_LINE, and reads completions
from standard output. If there are none, it offers files.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from itertools import chain, pairwise
from pathlib import Path

from kd_bench.cli import tune
from kd_bench.cli.common.parser import LIST_OPTIONS
from kd_bench.utils.errors import UserError
from kd_bench.utils.text.output import print_lines

Command = Callable[[Sequence[str]], int]
JOBS = ("plan", "tune", "evaluate", "prepare")  # commands that accept choices and values


def is_query(typed: Sequence[str]) -> bool:
    """Whether a shell requests completions."""
    flags = ("-sc", "--shell-completion")
    return any(word in flags for word in typed) and any(w.startswith("query=") for w in typed)


def main(commands: Mapping[str, Command]) -> int:
    """Print the completions of the line in COMP_LINE, one per line."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()[1:]
    last = words.pop() if words and not line[-1].isspace() else ""
    candidates = _candidates(words, last, commands)
    print_lines(*sorted({candidate for candidate in candidates if candidate.startswith(last)}))
    return 0


def _candidates(words: list[str], last: str, commands: Mapping[str, Command]) -> list[str]:
    """Candidates for the word after `words`; they need not all begin with `last`."""
    if not words:
        return [*commands, *_of_hydra(words, last)]
    if words[:2] == ["plan", "tune"]:
        words = words[1:]
    command, others = words[0], words[1:]
    if command not in commands:
        return _of_hydra(words, last)
    settings = tune.SETTINGS if command == "tune" else ()
    others = [word for word in others if word.partition("=")[0] not in settings]
    candidates = _of_hydra(others, last) if command in JOBS else []
    candidates += [f"{name}=" for name in settings]
    if words == ["plan"]:
        candidates += ["tune"]
    if command == "status":
        candidates += _sweeps(others)
    return candidates if command == "plan" else candidates + _options(commands[command])


def _options(command: Command) -> list[str]:
    output = io.StringIO()
    with redirect_stdout(output), suppress(SystemExit):
        command([LIST_OPTIONS])
    return output.getvalue().split()


def _sweeps(words: Sequence[str]) -> list[str]:
    """The names of the sweeps in the runs folder."""
    from kd_bench.jobs.job import sweep_files

    chosen = [word.partition("=")[2] for word in words if word.startswith("runs_dir=")]
    return list(sweep_files(Path(chosen[-1] if chosen else "runs")))


def _of_hydra(words: Sequence[str], last: str) -> list[str]:
    """Hydra's completions, including the user's files (--config-dir); none for an invalid line."""
    from kd_bench.cli import hydra_app

    arguments = hydra_app.hydra_arguments(words)
    values = [word for word in arguments if "=" in word and not word.startswith("-")]
    own = [pair for pair in pairwise([*arguments, ""]) if pair[0] in hydra_app.CONFIG_DIR_FLAGS]
    # Hydra completes choices of a group, but not if the key has a section (model@teacher.model).
    key, equals, begun = last.partition("=")
    group = hydra_app.ALIASES.get(key, key).partition("@")[0]
    query = f"{group}={begun}" if equals else last
    os.environ["COMP_LINE"] = " ".join(["kd-bench", *values, query])
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            hydra_app.main([*chain(*own), "-sc", "query=bash"])
    except UserError:
        return []
    if query == last:
        return output.getvalue().split()
    return [f"{key}={candidate.partition('=')[2]}" for candidate in output.getvalue().split()]
