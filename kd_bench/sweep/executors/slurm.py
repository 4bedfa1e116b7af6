"""Slurm as places for jobs: a slot submits one job at a time and follows it through the queue."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_bench.jobs.protocol import INTERRUPTED
from kd_bench.jobs.worker import run_job
from kd_bench.utils.errors import UserError, message_lines, require
from kd_bench.utils.process import job_environment

if TYPE_CHECKING:
    import submitit

POLL_SECONDS = 1.0  # how often the queue is read, once for all jobs
# A node's files may show here so much later, and a job that is put back into the queue may look
# as if it were over for as long.
LATE_SECONDS = 5.0

# States of `squeue` after which a job does nothing more, unless it is put back into the queue.
OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "GONE",  # ours: the queue does not know it any more
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
# Reasons to wait that do not pass by waiting.
NEVER = {"BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit"}


class Queue:
    """What Slurm's queue says of all jobs that were submitted here; `sacct` is not needed."""

    def __init__(self):
        self._jobs: dict[str, tuple[str, str]] = {}
        self._asked = -float("inf")

    def add(self, job_id: str) -> None:
        """A job that was submitted."""
        self._jobs[job_id] = ("PENDING", "None")

    def look(self, job_id: str) -> tuple[str, str]:
        """A job's state (RUNNING, ...) and the reason why it waits (Resources, ...)."""
        if time.monotonic() - self._asked >= POLL_SECONDS:
            self._ask()
            self._asked = time.monotonic()
        return self._jobs[job_id]

    def _ask(self) -> None:
        user = f"--user={os.getuid()}"
        command = ["squeue", "--noheader", "--states=all", user, "--format=%i|%T|%r"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return  # the controller is busy or restarts: nothing is known that was not known before
        found = {}
        for line in answer.stdout.splitlines():
            job_id, state, reason = line.split("|", 2)
            found[job_id] = (state, reason)
        self._jobs = {job_id: found.get(job_id, ("GONE", "None")) for job_id in self._jobs}


@dataclass
class SlurmTask:
    """What runs on the node, in the process that submitit starts there."""

    frozen: Path
    number: int
    log: Path
    is_put_back: bool = False  # into the queue, as its time is over

    def __call__(self) -> int:
        """Run the job; its exit code. One that is interrupted ends without: the queue tells why."""
        with open(self.log, "ab") as output:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(output.fileno(), stream.fileno())
        # submitit ignores it, and would be killed half a minute later.
        signal.signal(signal.SIGTERM, signal.default_int_handler)

        try:
            code = run_job(self.frozen, self.number)
        except SystemExit as end:  # by a user's own code
            if self.is_put_back:
                raise
            return end.code if isinstance(end.code, int) else 1
        if code == INTERRUPTED:
            sys.exit(code)
        return code

    def checkpoint(self) -> Any:
        """What runs when the job's time is over and it is put back: the same, from its last epoch.

        submitit calls this shortly before the end that Slurm has set, and then ends the process.
        """
        from submitit.helpers import DelayedSubmission

        self.is_put_back = True
        return DelayedSubmission(SlurmTask(self.frozen, self.number, self.log))


class SlurmProcess:
    """A job in Slurm's queue."""

    def __init__(self, job: submitit.Job[int], folder: Path, queue: Queue):
        self.job, self._folder, self._queue = job, folder, queue
        self._code: int | None = None
        self._reason: str | None = None
        self._over_since: float | None = None
        self._is_ending = False  # was asked to
        queue.add(job.job_id)

    def poll(self) -> int | None:
        """Its exit code; of one that left the queue without a word, that of a killed process."""
        if self._code is None:
            self._code = self._look()
            if self._code == 0:
                shutil.rmtree(self.job.paths.folder, ignore_errors=True)  # what submitit needed
        return self._code

    def _look(self) -> int | None:
        if self.job.paths.result_pickle.exists():
            code = 1 if self.job.exception() is not None else self.job.result()
            return code if code or self._is_late() or self._has_result() else None
        state, reason = self._queue.look(self.job.job_id)
        if reason in NEVER:
            self.signal(signal.SIGTERM)
            self._reason = f"Slurm cannot place the job: {reason}; see hydra.launcher"
            return 1
        if state not in OVER:
            self._over_since = None
            return None
        if self._has_result():
            return 0
        if not (self._is_late() or self._is_ending):
            return None
        self._reason = f"Slurm job {self.job.job_id} ended without a result: {state}"
        return -signal.SIGKILL

    def _is_late(self) -> bool:
        """Whether its end was seen so long ago that all its files must be there."""
        self._over_since = self._over_since or time.monotonic()
        return time.monotonic() - self._over_since >= LATE_SECONDS

    def _has_result(self) -> bool:
        # By reading the folder: of a single file, NFS may remember that it was not there.
        return "result.json" in os.listdir(self._folder)

    def signal(self, number: int) -> None:
        """Ask a running job to end; take out of the queue one that waits, or that is to end now."""
        if self._code is not None:
            return
        self._is_ending = True
        state, _ = self._queue.look(self.job.job_id)
        options = []
        if number == signal.SIGINT and state == "RUNNING":
            options = ["--signal=INT"]
        # Errors are printed: a job that stays in the queue is for the user to know.
        subprocess.run(["scancel", "--quiet", *options, self.job.job_id], check=False)
        if number == signal.SIGKILL:
            command = ["scancel", "--quiet", "--full", "--signal=KILL", self.job.job_id]
            subprocess.run(command, check=False)

    def reason(self) -> str | None:
        """What the queue said of its end."""
        return self._reason

    @property
    def words(self) -> str:
        """The job and where it is: Slurm 4711 PENDING (Resources)."""
        state, reason = self._queue.look(self.job.job_id)
        return f"Slurm {self.job.job_id} {state}" + (f" ({reason})" if reason != "None" else "")


@dataclass(eq=False)
class SlurmSlot:
    """One of the jobs that a sweep has in the queue at a time."""

    executor: submitit.SlurmExecutor
    queue: Queue
    process: SlurmProcess | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """What it does."""
        return "Slurm" if self.process is None else self.process.words

    def start(self, frozen: Path, number: int, log: Path) -> SlurmProcess:
        """Submit a job.

        Raises:
            UserError: Slurm refuses it.
        """
        from submitit.core.utils import FailedJobError

        job = SlurmTask(frozen.absolute(), number, log.absolute())
        try:
            with redirect_stderr(io.StringIO()):  # what is raised is printed there as well
                submitted = self.executor.submit(job)
        except FailedJobError as error:
            raise UserError(
                f"Slurm refuses the job: {message_lines(error)[-1]}; see hydra.launcher"
            ) from None
        self.process = SlurmProcess(submitted, log.absolute().parent, self.queue)
        return self.process


def slurm_slots(
    folder: Path, threads: int, parameters: Mapping[str, Any], number: int
) -> list[SlurmSlot]:
    """So many slots as there may be jobs in the queue at once.

    Args:
        folder: for what submitit writes, on a file system that the nodes share.
        threads: of a job.
        parameters: of `submitit.SlurmExecutor`; "setup" are lines of shell that a job begins with.
        number: of slots.
    """
    require(
        shutil.which("sbatch") is not None,
        "hydra/launcher=slurm: no sbatch here; start it where jobs are submitted,"
        " or choose hydra/launcher=local",
    )
    import submitit

    executor = submitit.SlurmExecutor(folder.absolute() / "%j")
    exports = [f"export {name}={value}" for name, value in job_environment(threads).items()]
    own = {"job_name": "kd-bench", "stderr_to_stdout": True}
    executor.update_parameters(**parameters | own | {"setup": [*exports, *parameters["setup"]]})
    queue = Queue()
    return [SlurmSlot(executor, queue) for _ in range(number)]
