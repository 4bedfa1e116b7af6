"""Errors that are a user's mistake, not a bug: one line with the valid options, no traceback.

An error in a user's own code (a loss's `forward`) is shown with the frames of that code alone.
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

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # why nothing can be written


class UserError(ValueError):
    """A mistake of the user; its message is one line with the valid options."""


class DamagedError(UserError):
    """A file that was cut off or overwritten; its message is one line that names it."""


def warn(message: str) -> None:
    """Print a line to standard error about what is left out or set aside."""
    with suppress(OSError):  # of a job, it goes to a file, whose disk may be full
        print_lines(f"kd-bench: {message}", file=sys.stderr)


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_positive(name: str, value: float) -> None:
    """Raise a `UserError` unless `value`, called `name` in YAML, is a finite number above 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and 0 < value < math.inf, f"{name} must be a number above 0, got {value!r}")


def require_installed(library: str, what: str, *, extra: str) -> None:
    """Raise a `UserError` with the command that installs an optional library, unless it is there.

    Args:
        library: the module that is imported.
        what: what needs it, the beginning of the message.
        extra: the extra of kd-bench that installs it.
    """
    require(
        importlib.util.find_spec(library) is not None,
        f'{what} needs {library}, which is not installed: pip install "kd-bench[{extra}]"',
    )


def failure_reason(error: BaseException) -> str:
    """Why a job failed, in one line: "ValueError: no", or that its code called `sys.exit`."""
    if isinstance(error, SystemExit):
        return f"SystemExit: its code called sys.exit({error.code!r})"
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def message_lines(error: BaseException) -> list[str]:
    """The lines of an error's message; the name of its class if that is empty."""
    return str(error).strip().splitlines() or [type(error).__name__]


class OwnCodeError(Exception):
    """An error in a user's own code in another process; its message is the text to show for it."""


def error_text(error: BaseException) -> str:
    """What is printed of an error.

    One line for a user's mistake, a diverged job or a full disk; the user's own frames for an error
    in the user's code; all frames for a bug, and for any error with HYDRA_FULL_ERROR=1.
    """
    if isinstance(error, OwnCodeError):
        return str(error)
    if not tracebacks.shows_all():
        if isinstance(error, UserError | FloatingPointError):
            return f"kd-bench: {error}"
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return f"kd-bench: {error.strerror}; free some space, and the same command goes on"
    return tracebacks.own_text(error)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print what `error_text` makes of an error, and exit: 2 for a user's mistake, otherwise 1."""
    try:
        yield
    except BrokenPipeError:  # the reader of the output is gone, which is no error
        raise
    except Exception as error:  # noqa: BLE001  # the end of the program
        print_lines(*error_text(error).splitlines(), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
