"""A headless Chromium for tests of HTML pages, which are skipped if there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def program() -> str:
    """The path of the browser."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip(f"needs a browser, one of {', '.join(PROGRAMS)}: apt-get install chromium")
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """A running Chromium, without its sandbox, which does not work for root in a container."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="pip install 'kd-bench[browser]'"
    )
    executable = program()
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()
