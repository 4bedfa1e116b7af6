"""Saves and loads a job's state after each epoch; a damaged file is set aside, not trusted.

It is written while the next epoch trains: packing and flushing a file takes tens of milliseconds,
which would slow down short epochs.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from kd_bench.results.run_folder import CHECKPOINTS
from kd_bench.utils.errors import message_lines
from kd_bench.utils.locked_folder import LockedFolder


class AsyncCheckpointer:
    """Writes states in a thread of its own, one after the other; a context manager waits for them.

    An error while writing is raised when the next state is saved, or at the end.
    """

    def __init__(self, folder: LockedFolder):
        self._folder = folder
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> AsyncCheckpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._wait()

    def save(self, state: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """Start to write a state as it is now, and then texts by file name."""
        self._wait()
        # Copied here: the thread must not touch a GPU that may be capturing a step.
        self._writing = self._thread.submit(_write, self._folder, on_cpu(state), dict(texts))

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def on_cpu(state: Any) -> Any:
    """A copy of nested dicts and lists with their tensors on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: on_cpu(value) for key, value in state.items()}
    return [on_cpu(value) for value in state] if isinstance(state, list) else state


def to_bytes(state: Any) -> bytes:
    """The content of a file that `torch.load(weights_only=True)` reads."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _write(folder: LockedFolder, state: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """Write a state, keeping the one before it, and then the texts."""
    newest, before = CHECKPOINTS
    if (folder.path / newest).exists():
        folder.rename(newest, before)
    folder.write(newest, to_bytes(state))
    for name, text in texts.items():
        folder.write(name, text)


def load(folder: LockedFolder, device: torch.device) -> dict[str, Any] | None:
    """The newest state that can be read; None if there is none.

    A file that cannot be read is renamed to `<name>.damaged`, with a warning that names it.
    """
    for name in CHECKPOINTS:
        path = folder.path / name
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # noqa: BLE001  # torch.load raises anything from EOFError to UnpicklingError
            folder.rename(name, f"{name}.damaged")
            warnings.warn(f"set aside {path}.damaged: {message_lines(error)[0]}", stacklevel=2)
    return None


def remove(folder: LockedFolder) -> None:
    """Delete what only an unfinished job needs."""
    for name in CHECKPOINTS:
        folder.remove(name)
