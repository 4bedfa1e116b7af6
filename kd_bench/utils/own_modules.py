"""A user's own modules are in the current folder, which is searched after all that is installed.

Python searches it first for `python -m`, and for what `multiprocessing` starts. A file named like a
library would then be imported by everything that means the library.
"""

from __future__ import annotations

import os
import sys


def leave_out_current_folder() -> None:
    """Import no module from the current folder; to be called before libraries are imported."""
    sys.path[:] = [path for path in sys.path if path not in ("", os.getcwd())]


def search_current_folder() -> None:
    """Import modules from the current folder, too, where no installed one has their name."""
    leave_out_current_folder()
    sys.path.append(os.getcwd())


def hidden_file(module: str) -> str:
    """Which file of the current folder has the name of an imported library; empty if none has."""
    package = module.partition(".")[0]
    imported = getattr(sys.modules.get(package), "__file__", None) or ""
    for own in (f"{package}.py", package):
        if os.path.exists(own) and not imported.startswith(os.path.abspath(own)):
            return f"; {package} is {imported}, which hides {own} in this folder: rename that"
    return ""
