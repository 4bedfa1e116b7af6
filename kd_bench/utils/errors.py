"""User errors: one line with the valid options instead of a traceback.

For an error in the user's own code (a loss's `forward`), only the frames of that code are shown.
"""

from __future__ import annotations

import errno
import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kd_bench.utils import tracebacks
from kd_bench.utils.text.output import print_lines

# How the messages of torch's errors about a killed worker of a DataLoader begin.
WORKER_ERROR = "DataLoader worker"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(ValueError):
    """A user's mistake; the message is one line with the valid options."""


class DamagedError(UserError):
    """A truncated or overwritten file; the message is one line with its path."""


def warn(message: str) -> None:
    """Print a one-line warning to standard error."""
    with suppress(OSError):  # a job's standard error is a file, and its disk may be full
        print_lines(f"kd-bench: {message}", file=sys.stderr)


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_positive(name: str, value: float) -> None:
    """Raise a `UserError` unless `value` is finite and above 0; `name` is its key in the YAML."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and 0 < value < math.inf, f"{name} must be a number above 0, got {value!r}")


def require_installed(library: str, what: str, *, extra: str) -> None:
    """Raise a `UserError` with the install command if an optional library is missing.

    Args:
        library: name of the module to import.
        what: the feature that needs it; begins the message.
        extra: the extra of kd-bench that installs it.
    """
    require(
        importlib.util.find_spec(library) is not None,
        f'{what} needs {library}, which is not installed: pip install "kd-bench[{extra}]"',
    )


def failure_reason(error: BaseException) -> str:
    """Why a job failed, in one line, such as "ValueError: no"."""
    if isinstance(error, SystemExit):
        return f"SystemExit: its code called sys.exit({error.code!r})"
    if isinstance(error, OwnCodeError):
        return error.reason
    if is_worker_error(error):
        error = worker_lost(error)
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def message_lines(error: BaseException) -> list[str]:
    """The lines of an error's message, or its class name if the message is empty."""
    return str(error).strip().splitlines() or [type(error).__name__]


class OwnCodeError(Exception):
    """An error in another process, such as one in a user's own code.

    Args:
        text: the text to print, from `error_text`; it is also the message.
        reason: one line, from `failure_reason`.
    """

    def __init__(self, text: str, reason: str):
        super().__init__(text, reason)  # both, so that it can be pickled
        self.reason = reason

    def __str__(self) -> str:
        text: str = self.args[0]
        return text


class ProcessLost(RuntimeError):  # noqa: N818  # what happened, not whose mistake it was
    """A process of a job was killed, crashed, or stopped responding; its message is one line."""


def is_worker_error(error: BaseException) -> bool:
    """Whether torch reports a killed worker, in a signal handler, thus at any line of code."""
    return isinstance(error, RuntimeError) and str(error).startswith(WORKER_ERROR)


def worker_lost(error: BaseException) -> ProcessLost:
    """The error to report in place of one that a killed worker of a DataLoader caused."""
    return ProcessLost(
        "a process that decodes images was killed, perhaps for lack of memory; use fewer"
        f" dataset.workers ({message_lines(error)[0].strip()})"
    )


def error_text(error: BaseException) -> str:
    """The text to print for an error.

    A single line for a user's mistake, a diverged job, a lost process or a full disk; only the
    user's own frames for an error in the user's code; the full traceback for a bug or with
    HYDRA_FULL_ERROR=1.
    """
    if isinstance(error, OwnCodeError):
        return str(error)
    if not tracebacks.shows_all():
        if is_worker_error(error):
            error = worker_lost(error)
        if isinstance(error, UserError | FloatingPointError | ProcessLost):
            return f"kd-bench: {error}"
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return f"kd-bench: {error.strerror}; free some space and rerun the command to resume"
    return tracebacks.own_text(error)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print the `error_text` of an error and exit: 2 for a user's mistake, otherwise 1."""
    try:
        yield
    except BrokenPipeError:  # the reader of the output has exited; not an error
        raise
    except Exception as error:  # noqa: BLE001  # top level of the program
        print_lines(*error_text(error).splitlines(), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
