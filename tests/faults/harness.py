"""Runs a trial: a fault in a scratch folder, the same command again, and a comparison."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults import hook, oracle, program
from faults.hook import NOTHING, Fault
from faults.oracle import Found, Outcome
from faults.program import Ended, Patch, Running, Stuck, Words
from faults.states import Scenario
from kd_bench.results.run_folder import RESULT

LINGER = 60.0  # seconds after a command within which all its processes must end


class Trial:
    """A copy of a folder, and the commands run in it."""

    def __init__(self, folder: Path, start: Path, patch: Patch):
        self.folder, self.work, self._patch = folder, folder / "work", patch
        self._ended: list[Ended] = []
        shutil.copytree(start, self.work, symlinks=True)

    def start(
        self,
        words: Words,
        fault: Fault = NOTHING,
        fault_of_jobs: Fault = NOTHING,
        patch: Patch | None = None,
    ) -> Running:
        """Start a command; see `program.start`."""
        return program.start(self.folder, words, fault, fault_of_jobs, patch or self._patch)

    def end(self, running: Running) -> Ended:
        """Wait for a command.

        Raises:
            Found: it printed or left a traceback, or a signal killed it.
        """
        ended = running.wait()
        self._ended.append(ended)
        if ended.code < 0 and ended.code != -signal.SIGKILL:  # sent by the harness
            raise Found(Outcome.TRACEBACK, f"killed by {signal.Signals(-ended.code).name}")
        oracle.check_no_traceback(self.work, [each.output for each in self._ended])
        return ended

    def run(self, words: Words, fault: Fault = NOTHING, fault_of_jobs: Fault = NOTHING) -> Ended:
        """Start a command and wait for it."""
        return self.end(self.start(words, fault, fault_of_jobs))

    def finish(self, scenario: Scenario, damaged: Path | None = None) -> Outcome:
        """Run the command again, follow its advice if it refuses, and compare all files.

        Raises:
            Found: the files differ from those of an undisturbed run.
        """
        outcome = Outcome.RECOVERED
        again = self.run(scenario.words)
        if again.code != 0:
            outcome = Outcome.REFUSED
            line = oracle.refusal(again.output, damaged, self.work)
            _delete(oracle.to_delete(line, self.work))
            again = self.run(scenario.words)
        if again.code != 0:
            raise Found(Outcome.UNCLEAR, f"exit code {again.code}: {again.output[-300:]!r}")
        self.check_processes()
        self._age()
        self.run(("clean", "--yes"))
        oracle.check_files(self.work, scenario.done)
        return outcome

    def _age(self) -> None:
        """Make all files a day old: `clean` keeps files that may still be written."""
        yesterday = time.time() - 86400
        for path in self.work.rglob("*"):
            os.utime(path, (yesterday, yesterday), follow_symlinks=False)

    def check_processes(self) -> None:
        """Check that all processes have ended.

        Raises:
            Found: one is still running; it is killed.
        """
        deadline = time.monotonic() + LINGER
        while left := program.processes_in(self.folder):
            if time.monotonic() > deadline:
                names = ", ".join(map(program.name_of, left))
                program.kill(left)
                raise Found(Outcome.WRONG, f"processes are left behind: {names}")
            time.sleep(0.01)

    def check_trained_once(self) -> None:
        """Check that no job was trained twice.

        Raises:
            Found: one was.
        """
        journal = hook.read_journal(self.folder / "journal")
        results = Counter(o.path for o in journal if o.name == "rename" and o.path.endswith(RESULT))
        if twice := [path for path, number in results.items() if number > 1]:
            raise Found(Outcome.DOUBLED, f"{twice[0]} was written {results[twice[0]]} times")


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@dataclass(frozen=True)
class Case:
    """A fault to try."""

    row: str  # in the summary
    name: str
    start: Callable[[], Path]  # the folder to copy, made on the first call
    play: Callable[[Trial], Outcome]
    runs_sweep: bool = False  # takes seconds


@dataclass(frozen=True)
class Result:
    """How a case ended."""

    row: str
    name: str
    outcome: Outcome
    seen: str = ""  # the difference, if there is one


def attempt(case: Case, scratch: Path, patch: Patch = program.no_patch) -> Result:
    """Try a case in a new folder below `scratch`, which is kept if the case fails.

    Args:
        case: to try.
        scratch: the parent of all trial folders.
        patch: applied to kd-bench in all commands.
    """
    folder = Path(tempfile.mkdtemp(dir=scratch, prefix="trial-"))
    trial = Trial(folder, case.start(), patch)
    try:
        outcome, seen = case.play(trial), ""
    except Found as found:
        outcome, seen = found.outcome, str(found)
    except Stuck as stuck:
        outcome, seen = Outcome.UNCLEAR, str(stuck)
    finally:
        program.kill(program.processes_in(folder))
    if outcome in oracle.ALLOWED:
        shutil.rmtree(folder)
    else:
        seen = f"{seen.replace(str(trial.work) + '/', '')} (in {folder})"
    return Result(case.row, case.name, outcome, seen)
