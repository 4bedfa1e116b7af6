"""Mistakes of the user, told apart from bugs: one line with the right choices, and no traceback."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake of the user: one line that names the right choices."""


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def require_positive(name: str, value: float) -> None:
    """Raise a `UserError` unless `value`, called `name` in YAML, is a finite number above 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    require(number and 0 < value < math.inf, f"{name} must be a number above 0, got {value!r}")


def message_lines(error: BaseException) -> list[str]:
    """The lines that an error says; the name of its kind where it says nothing."""
    return str(error).strip().splitlines() or [type(error).__name__]


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Answer a user's mistake, and a job that diverged, with a line; other errors are bugs."""
    try:
        yield
    except UserError as error:
        message, code = str(error), 2
    except FloatingPointError as error:
        message, code = str(error), 1
    else:
        return
    print(f"kd-bench: {message}", file=sys.stderr)
    sys.exit(code)
