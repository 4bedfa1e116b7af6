"""Errors that are a user's mistake, not a bug: one line with the valid options, no traceback."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kd_bench.utils.output import print_lines


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


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print one line for a user's mistake or a diverged job, and exit; other errors are bugs."""
    try:
        yield
    except UserError as error:
        message, code = str(error), 2
    except FloatingPointError as error:
        message, code = str(error), 1
    else:
        return
    print_lines(f"kd-bench: {message}", file=sys.stderr)
    sys.exit(code)
