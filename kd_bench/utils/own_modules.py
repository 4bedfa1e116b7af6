"""Puts the current folder, with the user's own modules, last in the module search path.

Python searches it first for `python -m` and in processes started by `multiprocessing`. A file named
like a library would then be imported in place of the library.
"""

from __future__ import annotations

import os
import sys


def leave_out_current_folder() -> None:
    """Import no modules from the current folder; call this before importing libraries."""
    sys.path[:] = [path for path in sys.path if path not in ("", os.getcwd())]


def search_current_folder() -> None:
    """Import modules from the current folder too, unless an installed one has the same name."""
    leave_out_current_folder()
    sys.path.append(os.getcwd())


def hidden_file(module: str) -> str:
    """A hint if an imported library hides a file of the current folder; otherwise empty."""
    package = module.partition(".")[0]
    imported = getattr(sys.modules.get(package), "__file__", None) or ""
    for own in (f"{package}.py", package):
        if os.path.exists(own) and not imported.startswith(os.path.abspath(own)):
            return f"; {package} is {imported}, which hides {own} in this folder: rename that"
    return ""
