"""Results written on other machines, which may become visible on a shared file system late."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kd_bench.results.run_folder import RESULT

LATE_SECONDS = 5.0  # after this time, a file written on another machine is visible here


class LateResult:
    """Waits for the result of a job on another machine to become visible."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._ended: float | None = None  # when its end was first noticed

    def is_there(self) -> bool:
        """Whether the result is visible in the job's folder."""
        try:
            # Lists the folder, because NFS clients cache the absence of a single file.
            return RESULT in os.listdir(self._folder)
        except OSError:  # the folder has disappeared
            return False

    def is_overdue(self) -> bool:
        """Whether the job ended so long ago that a result would be visible by now.

        The first call sets the time of its end.
        """
        if self._ended is None:
            self._ended = time.monotonic()
        return time.monotonic() - self._ended >= LATE_SECONDS

    def final_code(self, code: int) -> int | None:
        """The exit code of a job that ended; None while a result that must exist is not visible."""
        is_final = code != 0 or self.is_overdue() or self.is_there()
        return code if is_final else None

    def restart(self) -> None:
        """Reset the time of the job's end: it was requeued."""
        self._ended = None
