"""Saves a job's state after each epoch and loads it to resume; invalid files are set aside.

Checkpoints are written while the next epoch trains: serializing and flushing a file takes tens of
milliseconds, which would slow down short epochs.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from kd_bench.results.run_folder import CHECKPOINTS
from kd_bench.utils.errors import message_lines
from kd_bench.utils.locked_folder import LockedFolder

FORMAT = 1  # version of the file format; increased when it changes


class AsyncCheckpointer:
    """Writes checkpoints one at a time in a background thread; as a context manager, waits for it.

    A write error is raised by the next `save`, or on exit.

    Args:
        folder: where to write.
        job: the job's name; `load` rejects a checkpoint of another job.
    """

    def __init__(self, folder: LockedFolder, job: str):
        self._folder, self._job = folder, job
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> AsyncCheckpointer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self._wait()

    def save(self, state: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        """Start writing a snapshot of `state`, and then the text files, given by name."""
        self._wait()
        # Copied here because the thread must not touch a GPU that may be capturing a step.
        copied = on_cpu(state), dict(texts)
        self._writing = self._thread.submit(_write, self._folder, self._job, *copied)

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
    """Serialize a state for `torch.load(weights_only=True)`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _write(
    folder: LockedFolder, job: str, state: Mapping[str, Any], texts: Mapping[str, str]
) -> None:
    """Write the state, keeping the previous one, and then the text files, without flushing them."""
    newest, before = CHECKPOINTS
    if (folder.path / newest).exists():
        folder.rename(newest, before)
    folder.write(newest, _pack(state, job))
    for name, text in texts.items():
        folder.write(name, text, flush=False)


def load(folder: LockedFolder, job: str) -> dict[str, Any] | None:
    """Load the newest valid state of a job onto the CPU; None if there is none.

    A file that is damaged, or belongs to another job or version of kd-bench, is renamed to
    `<name>.damaged`, with a warning that gives its path and the reason.
    """
    for name in CHECKPOINTS:
        path = folder.path / name
        if not path.exists():
            continue
        content = path.read_bytes()
        try:
            return _unpack(content, job)
        except Exception as error:  # noqa: BLE001  # torch.load raises anything from EOFError to UnpicklingError
            folder.rename(name, f"{name}.damaged")
            warnings.warn(f"set aside {path}.damaged: {message_lines(error)[0]}", stacklevel=2)
    return None


# File layout: a line of JSON with format, job and hash, followed by the output of torch.save.


def _pack(state: Any, job: str) -> list[bytes]:
    """A file's content in parts, since joining them would take as long as hashing them."""
    saved = to_bytes(state)
    about = {"format": FORMAT, "job": job, "sha256": _hash(job, saved)}
    return [json.dumps(about).encode(), b"\n", saved]


def _unpack(content: bytes, job: str) -> dict[str, Any]:
    """Extract the state from a file's content.

    Raises:
        ValueError: the file is damaged, or has another job or format.
    """
    first, _, saved = content.partition(b"\n")
    about = _parse(first)
    if about["format"] != FORMAT:
        raise ValueError(
            f"it has format {about['format']}, and this version of kd-bench reads {FORMAT}"
        )
    if about["sha256"] != _hash(about["job"], saved):
        raise ValueError("its hash does not match: it was damaged after it was written")
    if about["job"] != job:
        raise ValueError(f"it belongs to another job, {about['job']}")
    return torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        about = json.loads(line)
    except ValueError:
        about = None
    if not isinstance(about, dict) or not {"format", "job", "sha256"} <= about.keys():
        raise ValueError("it has no header: it was damaged, or written by kd-bench 0.1")
    return about


def _hash(job: str, saved: bytes) -> str:
    content = hashlib.sha256(job.encode())
    content.update(saved)
    return content.hexdigest()


def remove(folder: LockedFolder) -> None:
    """Delete the checkpoints, which only an unfinished job needs."""
    for name in CHECKPOINTS:
        folder.remove(name)
