"""Runs kd-bench commands in forks of this process, in which all modules are already imported.

Importing PyTorch takes longer than everything else in a small job. A fork behaves like a separate
process in all that matters here: it has an id, can be killed and stopped, and prints to a file.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from faults import hook
from faults.hook import NOTHING, Fault
from kd_bench.cli import hydra_app, main
from kd_bench.sweep import dry_run, prepare, scheduler
from kd_bench.sweep.executors import preload

LOADED = (hydra_app, preload, dry_run, prepare, scheduler)  # imported before forking
PATIENCE = 180.0  # seconds after which a command counts as stuck
POLL_SECONDS = 0.002
Words = Sequence[str]
Patch = Callable[[], None]


def no_patch() -> None:
    """Leave kd-bench as it is."""


class Stuck(Exception):  # noqa: N818  # a state, not an error
    """A command did not end in time."""


@dataclass(frozen=True)
class Ended:
    """The exit code and output of a command that ended."""

    code: int  # minus the signal's number if one killed it
    output: str


class Running:
    """A running command."""

    def __init__(self, pid: int, log: Path):
        self.pid, self._log, self._status = pid, log, None

    def poll(self, flags: int = os.WNOHANG) -> int | None:
        """The exit code; None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, flags)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self) -> Ended:
        """Wait until it ends; kill it after `PATIENCE` seconds."""
        deadline = time.monotonic() + PATIENCE
        while (code := self.poll()) is None:
            self._check(deadline)
            time.sleep(POLL_SECONDS)
        return Ended(code, self.output)

    def wait_until_stopped(self) -> bool:
        """Wait until a signal has stopped it (True) or it has ended (False)."""
        deadline = time.monotonic() + PATIENCE
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return True
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            self._check(deadline)
            time.sleep(POLL_SECONDS)
        return False

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            self.kill()
            raise Stuck(f"still running after {PATIENCE:.0f} s; output: {self.output[-300:]!r}")

    def signal(self, number: int) -> None:
        """Send it a signal if it is still running."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it and wait until it has ended."""
        self.signal(signal.SIGKILL)
        self.poll(0)

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self._log.read_text(errors="replace")


def start(
    folder: Path,
    words: Words,
    fault: Fault = NOTHING,
    fault_of_jobs: Fault = NOTHING,
    patch: Patch = no_patch,
) -> Running:
    """Start `kd-bench WORDS` in folder/work; its output and journal are in `folder`.

    Args:
        folder: of a trial.
        words: of the command line.
        fault: in the command's own process.
        fault_of_jobs: in each process that it starts.
        patch: called first in its process.
    """
    log = folder / f"output.{time.monotonic_ns()}"
    log.touch()
    if pid := os.fork():
        return Running(pid, log)
    code = 1
    try:
        _become_program(folder, words, log, fault, fault_of_jobs)
        patch()
        code = _run_main()
        threading._shutdown()  # waits for threads, as Python does at exit
    except BaseException:  # noqa: BLE001  # printed, as Python does at exit
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _become_program(
    folder: Path, words: Words, log: Path, fault: Fault, fault_of_jobs: Fault
) -> None:
    os.setsid()
    os.chdir(folder / "work")
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        os.dup2(output, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["kd-bench", *words]
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)  # deleted with the trial
    watched, journal = folder / "work", folder / "journal"
    os.environ.update(hook.variables(fault_of_jobs, watched, journal))
    hook.install(fault, watched, journal)


def _run_main() -> int:
    try:
        main.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def run(folder: Path, words: Words, fault: Fault = NOTHING) -> Ended:
    """Start `kd-bench WORDS` in a trial's folder and wait until it ends."""
    return start(folder, words, fault).wait()


def processes_in(folder: Path) -> list[int]:
    """The ids of all processes whose working directory is `folder` or below it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:  # it has ended, or belongs to another user
            continue
    return found


def name_of(pid: int) -> str:
    """A process as `ps` shows it: id, state and command line."""
    try:
        folder = Path(f"/proc/{pid}")
        state = folder.joinpath("stat").read_text().rpartition(")")[2].split()[0]
        words = folder.joinpath("cmdline").read_text().replace("\0", " ")
    except OSError:
        return f"{pid} (has ended)"
    return f"{pid} {state} {words[:200]}"


def kill(pids: Sequence[int]) -> None:
    """Kill processes that a command left behind."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
