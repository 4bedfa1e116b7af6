"""A job's identity and its folder: digest, lock, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from kd_bench import schema
from kd_bench.errors import UserError

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # a lock of another host, untouched for so long, belongs to nobody
WEIGHTS = "weights.pt"  # the student's, of a finished job
CHECKPOINTS = ("checkpoint.pt", "checkpoint_before.pt")  # of an unfinished one, the newest first
TABLES = ".tables"  # below the runs folder: what teachers say about all views
LOCKED_ELSEWHERE = 75  # exit code of a job's process: another process works at the job

# How steps are executed, as far as it is part of what a job is.
MODE = ("speed", "compile", "precision")

# Where the images lie is no part of what is learnt; `weights` act through the method's.
PLACES = {"root", "download", "weights"}


# Identity


def canonical(value: Any) -> Any:
    """`value` in the one spelling that is hashed: 4 for 4.0, lists for tuples, names for enums."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def without_defaults(section: Mapping, kind: type) -> dict:
    """`section` without values equal to the schema's defaults, so that a new key orphans none.

    None counts as one: what was not given had no other value in older records.
    """
    default, kept = kind(), {}
    for name, value in section.items():
        usual = getattr(default, name, None)
        if is_dataclass(usual):
            value, usual = without_defaults(value, type(usual)), {}
        if value is not None and canonical(value) != canonical(usual):
            kept[name] = canonical(value)
    return kept


def _dataset_identity(config: Mapping) -> dict:
    dataset = {k: v for k, v in config.items() if k not in PLACES}
    dataset["source"] = {k: v for k, v in config["source"].items() if k not in PLACES}
    return without_defaults(dataset, schema.DatasetConfig)


def _teacher_identity(config: Mapping) -> dict:
    teacher = {"model": without_defaults(config["model"], schema.ModelConfig)}
    if config.get("checkpoint"):
        teacher["checkpoint"] = file_hash(config["checkpoint"])
    else:
        teacher["recipe"] = without_defaults(config["recipe"], schema.RecipeConfig)
        teacher["seed"] = config["seed"]
    if config.get("source") not in (None, schema.TeacherSource.online.value):
        teacher["source"] = config["source"]
    if config.get("precision") is not None:
        teacher["precision"] = config["precision"]
    return teacher


def identity(
    config: Mapping, *, needs_teacher: bool, teacher_learns: bool, revisions: Mapping[str, int]
) -> dict:
    """What makes a job the job it is, but for its seed, as a plain dict.

    Args:
        config: a whole job, shaped like `schema.Config`.
        needs_teacher: without, the teacher is left out: a baseline runs once for all pairs.
        teacher_learns: the teacher is trained along, so that its own recipe and seed do not count.
        revisions: loss name -> `Loss.revision`, raised when the loss's numbers change.
    """
    config = canonical(config)
    result = {
        "dataset": _dataset_identity(config["dataset"]),
        "model": without_defaults(config["model"], schema.ModelConfig),
        "method": without_defaults(config["method"], schema.MethodConfig),
        "recipe": without_defaults(config["recipe"], schema.RecipeConfig),
    }
    if teacher_learns:
        model = without_defaults(config["teacher"]["model"], schema.ModelConfig)
        result["teacher"] = {"model": model}
    elif needs_teacher:
        result["teacher"] = _teacher_identity(config["teacher"])
    for name in MODE:
        usual = canonical(getattr(schema.Config, name))
        if config.get(name, usual) != usual:
            result[name] = config[name]
    if raised := {name: number for name, number in revisions.items() if number != 1}:
        result["revisions"] = raised
    return result


def mode(job_identity: Mapping) -> str:
    """How a job's steps are executed, in words: "repro", or "repro, compiled, bf16"."""
    words = [job_identity.get("speed", schema.Speed.repro.value)]
    if job_identity.get("compile"):
        words.append("compiled")
    return ", ".join([*words, *filter(None, [job_identity.get("precision")])])


def digest(job_identity: Mapping) -> str:
    """Eight hexadecimal digits that name an identity."""
    text = json.dumps(job_identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def folder_name(job_identity: Mapping, seed: int) -> str:
    """<dataset>/<teacher>-<student>/<method>/<digest>/seed<k>, below the runs folder."""
    teacher = job_identity.get("teacher", {}).get("model", {}).get("name", "none")
    parts = (
        job_identity["dataset"]["name"],
        f"{teacher}-{job_identity['model']['name']}",
        job_identity["method"]["name"],
        digest(job_identity),
        f"seed{seed}",
    )
    return "/".join(parts)


def check_names(config: Mapping) -> None:
    """Refuse names that cannot be a folder's: they are parts of a job's path."""
    for section in ("dataset", "model", "method", "recipe"):
        name = config[section]["name"]
        if not re.fullmatch(r"[\w.][\w.+-]*", str(name)):
            raise UserError(
                f"{section}.name must be letters, digits, '_', '.', '+' or '-' (it names a folder),"
                f" got '{name}'"
            )


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content, 16 hexadecimal digits."""
    content = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return content.hexdigest()[:16]


def flatten(nested: Mapping, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists as text."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value) if isinstance(value, list) else value
    return flat


# Files


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it appears whole or not at all: beside it, flushed, renamed."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    with open(part, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_result(folder: Path) -> dict | None:
    """The result of a finished job, None where there is none (yet)."""
    try:
        return json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        return None


def make_folder(folder: Path) -> None:
    """Make a job's folder; a place that cannot be written to is the user's to mend."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}.writable"  # process ids are not unique over hosts
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder.absolute()}: {error.strerror};"
            " choose another place with runs_dir=DIR"
        ) from None


# Lock


class Locked(Exception):
    """Another process works in the folder; `args[0]` says which."""


def _process_started(pid: int) -> str:
    """When a process of this host started, in clock ticks since boot; '' where it can't be told.

    Told apart by its start, a recycled process id is not taken for the one that held the lock. A
    process that ended but that nobody waits for, as in a container without init, is gone too.
    """
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else numbers[18]


def _host() -> str:
    """What shares this process's ids: a machine since it started, and a namespace in it.

    The name alone would not do: containers share it and not their processes, and machines may
    have the same. Where two are told apart that are one, as after a reboot, a lock's age decides.
    """
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        namespace = boot = ""
    return f"{socket.gethostname()}~{boot}~{namespace}"


def _is_alive(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _process_started(pid) == started


def _named(owner: str) -> str:
    """A lock's owner as people name it: process 4711 on somehost."""
    host, pid, _ = owner.split(",")
    return f"process {pid} on {host.partition('~')[0]}"


class Lock:
    """Sole right to work in a folder, across processes and hosts that share a file system.

    The lock is a directory `lock` with one file, named for its owner: `<host>,<pid>,<start>`.
    It appears by renaming a prepared directory, which fails where another's has a file in it. A
    dead owner's lock is taken over by renaming that owner's file: of several takers one succeeds,
    because the old name is gone for the others. On the owner's host dead means that the process
    is gone; elsewhere, that the file's time is `STALE_SECONDS` from that of a file touched just now
    in the same folder, so that this clock does not matter, and that it does not move while one
    looks, so that the owner's does not matter either, where it is that which sets the time.
    """

    def __init__(self, folder: Path):
        self.directory = folder / "lock"
        self.name = f"{_host()},{os.getpid()},{_process_started(os.getpid())}"
        self.lost = False  # somebody took over: this process must not write any more
        self._stop = threading.Event()

    def __enter__(self) -> Lock:
        while not self._create():
            owner = self._owner()
            if owner is None:
                continue  # released in between
            if not (self._is_stale(owner) and self._stays_silent(owner)):
                raise Locked(_named(owner))
            if self._take_over(owner):
                break
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        if not self.lost:
            (self.directory / self.name).unlink(missing_ok=True)
            with suppress(OSError):  # empty, it was free to be taken, and somebody did at once
                self.directory.rmdir()

    def _create(self) -> bool:
        prepared = self.directory.with_name(f".lock.{self.name}")
        prepared.mkdir(exist_ok=True)
        (prepared / self.name).touch()
        try:
            prepared.rename(self.directory)
        except OSError:  # there is one, with its owner's file in it
            if not prepared.exists():  # NFS may ask twice, and be told of the second time alone
                return (self.directory / self.name).exists()
            (prepared / self.name).unlink()
            prepared.rmdir()
            return False
        return True

    def _owner(self) -> str | None:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return None
        return names[0] if names else None

    def _is_stale(self, owner: str) -> bool:
        host, pid, started = owner.split(",")
        if host == _host():
            return not _is_alive(int(pid), started)
        now = self.directory.with_name(f".now.{self.name}")
        now.touch()
        try:
            age = now.stat().st_mtime - (self.directory / owner).stat().st_mtime
        except FileNotFoundError:
            return False
        finally:
            now.unlink()
        return abs(age) > STALE_SECONDS

    def _stays_silent(self, owner: str) -> bool:
        """Whether an owner of another host gives no sign of life for two heartbeats and a half."""
        host, _, _ = owner.split(",")
        if host == _host():
            return True
        times = []
        for seconds in (0.0, 2.5 * HEARTBEAT_SECONDS):
            time.sleep(seconds)
            try:
                times.append((self.directory / owner).stat().st_mtime_ns)
            except FileNotFoundError:
                return True  # gone altogether, as taking over will find
        return times[0] == times[1]

    def _take_over(self, owner: str) -> bool:
        theirs, mine = self.directory / owner, self.directory / self.name
        try:
            os.utime(theirs)  # else the renamed file would look stale to the next taker
            theirs.rename(mine)
        except FileNotFoundError:
            return False
        return True

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                os.utime(self.directory / self.name)
            except FileNotFoundError:
                self.lost = not self._stop.is_set()
                return
            except OSError:  # a file system that does not answer for a while: the next beat may
                continue


def lock_owner(folder: Path) -> str | None:
    """Who works in a folder, as the lock tells it; None where nobody does, or the owner is dead."""
    lock = Lock(folder)
    owner = lock._owner()
    return None if owner is None or lock._is_stale(owner) else owner


def who_works_in(folder: Path) -> str | None:
    """Who works in a folder, in words for people; None where nobody does, or the owner is dead.

    This only reads, so that anybody may look on. Hence another host's sign of life is judged by
    the clock of this one: good enough to be shown, not to act on.
    """
    lock = Lock(folder)
    if (owner := lock._owner()) is None:
        return None
    host, pid, started = owner.split(",")
    if host == _host():
        return _named(owner) if _is_alive(int(pid), started) else None
    try:
        age = time.time() - (lock.directory / owner).stat().st_mtime
    except FileNotFoundError:
        return None
    return _named(owner) if age <= STALE_SECONDS else None


def wait_for(folder: Path, seconds: float = 0.5) -> dict | None:
    """Wait while another process works in a folder; its result, None if it left without one."""
    while read_result(folder) is None and lock_owner(folder):
        time.sleep(seconds)
    return read_result(folder)
