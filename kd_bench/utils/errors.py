"""Errors that are a user's mistake, not a bug: one line with the valid options, no traceback.

An error in a user's own code (a loss's `forward`) is shown with the frames of that code alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kd_bench.utils import tracebacks


class UserError(ValueError):
    """A mistake of the user; its message is one line with the valid options."""


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_positive(name: str, value: float) -> None:
    """Raise a `UserError` unless `value`, called `name` in YAML, is a finite number above 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and 0 < value < math.inf, f"{name} must be a number above 0, got {value!r}")


def message_lines(error: BaseException) -> list[str]:
    """The lines of an error's message; the name of its class if that is empty."""
    return str(error).strip().splitlines() or [type(error).__name__]


class OwnCodeError(Exception):
    """An error in a user's own code in another process; its message is the text to show for it."""


def error_text(error: BaseException) -> str:
    """What is printed of an error.

    One line for a user's mistake or a diverged job, the user's own frames for an error in the
    user's code; all frames for a bug, and for any error with HYDRA_FULL_ERROR=1.
    """
    if isinstance(error, OwnCodeError):
        return str(error)
    if isinstance(error, UserError | FloatingPointError) and not tracebacks.shows_all():
        return f"kd-bench: {error}"
    return tracebacks.own_text(error)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print what `error_text` makes of an error, and exit: 2 for a user's mistake, otherwise 1."""
    try:
        yield
    except BrokenPipeError:  # the reader of the output is gone, which is no error
        raise
    except Exception as error:  # noqa: BLE001  # the end of the program
        print(error_text(error), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
