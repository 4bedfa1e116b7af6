"""Errors that are a user's mistake, not a bug: one line with the valid options, no traceback."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # why nothing can be written


class UserError(ValueError):
    """A mistake of the user; its message is one line with the valid options."""


class DamagedError(UserError):
    """A file that was cut off or overwritten; its message is one line that names it."""


def warn(message: str) -> None:
    """Print a line to standard error about what is left out or set aside."""
    with suppress(OSError):  # of a job, it goes to a file, whose disk may be full
        print(f"kd-bench: {message}", file=sys.stderr)


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_positive(name: str, value: float) -> None:
    """Raise a `UserError` unless `value`, called `name` in YAML, is a finite number above 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and 0 < value < math.inf, f"{name} must be a number above 0, got {value!r}")


def failure_reason(error: BaseException) -> str:
    """Why a job failed, in one line: "ValueError: no", or that its code called `sys.exit`."""
    if isinstance(error, SystemExit):
        return f"SystemExit: its code called sys.exit({error.code!r})"
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def message_lines(error: BaseException) -> list[str]:
    """The lines of an error's message; the name of its class if that is empty."""
    return str(error).strip().splitlines() or [type(error).__name__]


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print one line for a user's mistake, a diverged job or a full disk, and exit.

    Other errors are bugs.
    """
    try:
        yield
    except UserError as error:
        message, code = str(error), 2
    except FloatingPointError as error:
        message, code = str(error), 1
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        remedy = "free some space, and the same command goes on"
        message, code = f"{error.strerror}; {remedy}", 1
    else:
        return
    print(f"kd-bench: {message}", file=sys.stderr)
    sys.exit(code)
