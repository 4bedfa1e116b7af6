"""A folder whose files are changed only while this process holds its lock."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_bench.utils.files import atomic_write, to_json
from kd_bench.utils.lock import Lock


class LockedFolder:
    """A folder that this process has locked; all changes to its files go through this class.

    The lock is checked right before each change. A process that is suspended between the check and
    the change for longer than a takeover takes can still change one file of the new owner; only
    locking in the file system itself could prevent that.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = Lock(path)

    def __enter__(self) -> LockedFolder:
        self._lock.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(*error)

    def check(self) -> None:
        """Check that the lock is still held.

        Raises:
            Locked: another process took it over.
        """
        self._lock.check()

    def write(
        self, name: str, content: str | bytes | Sequence[bytes], *, flush: bool = True
    ) -> None:
        """Write a file, as `atomic_write` does."""
        atomic_write(self.path / name, content, check=self.check, flush=flush)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as readable JSON, as `write` does."""
        self.write(name, to_json(value))

    def rename(self, name: str, to: str) -> None:
        """Rename a file, replacing an existing file of the new name."""
        self.check()
        os.replace(self.path / name, self.path / to)

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""
        self.check()
        (self.path / name).unlink(missing_ok=True)
