"""Tracebacks of a user's own code, without the frames of kd-bench and libraries."""

from __future__ import annotations

import inspect
import os
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HYDRA_FULL_ERROR = "HYDRA_FULL_ERROR"  # 1: Hydra and kd-bench show full tracebacks
_AS_TYPED = "KD_BENCH_FULL_ERROR"  # the user's value of the above while `raised_by_hydra` sets it

_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = (_PACKAGE, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "scripts")))
_INSTALLED = {"site-packages", "dist-packages"}


def shows_all() -> bool:
    """Whether full tracebacks are enabled: HYDRA_FULL_ERROR=1."""
    return os.environ.get(_AS_TYPED, os.environ.get(HYDRA_FULL_ERROR)) == "1"


@contextmanager
def raised_by_hydra() -> Iterator[None]:
    """Make Hydra raise errors instead of printing them, without changing `shows_all`."""
    before = {name: os.environ.get(name) for name in (HYDRA_FULL_ERROR, _AS_TYPED)}
    os.environ |= {_AS_TYPED: str(int(shows_all())), HYDRA_FULL_ERROR: "1"}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


def own_frames(error: BaseException) -> traceback.StackSummary:
    """The frames of an error that are neither in kd-bench nor in an installed library."""
    frames = traceback.extract_tb(error.__traceback__)
    return traceback.StackSummary.from_list([each for each in frames if _is_own(each.filename)])


def _is_own(filename: str) -> bool:
    path = Path(filename)
    is_library = any(path.is_relative_to(folder) for folder in _LIBRARIES)
    return not (filename.startswith("<") or is_library or _INSTALLED & set(path.parts))


def own_text(error: BaseException) -> str:
    """The traceback with only the frames of the user's own code; with all frames if it has none."""
    frames = own_frames(error)
    if shows_all() or not frames:
        return "".join(traceback.format_exception(error)).rstrip()
    heading = f"Traceback of your own code ({HYDRA_FULL_ERROR}=1 shows all frames):\n"
    lines = [heading, *frames.format(), *traceback.format_exception_only(error)]
    return "".join(lines).rstrip()


def summary(error: BaseException) -> str:
    """An error with its location in one line: NameError: name 'x' is not defined (a.py, line 3)."""
    message, where = str(error).strip().partition("\n")[0], place(error)
    if isinstance(error, SyntaxError) and error.filename:  # no frame is in the faulty file
        message, where = error.msg, _place(error.filename, error.lineno)
    return ": ".join(filter(None, (type(error).__name__, message))) + where


def place(error: BaseException) -> str:
    """The location of an error in the user's own code: " (mine.py, line 3)"; empty if outside."""
    return "".join(_place(each.filename, each.lineno) for each in own_frames(error)[-1:])


def place_of(function: Callable) -> str:
    """Where a user's own function is defined, in the format of `place`; empty if unknown."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or not _is_own(code.co_filename):
        return ""
    return _place(code.co_filename, code.co_firstlineno)


def _place(filename: str, line: int | None) -> str:
    return f" ({short_path(filename)}, line {line})"


def short_path(filename: str) -> str:
    """A path relative to the current folder if it is inside, otherwise unchanged."""
    path, here = Path(filename), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
