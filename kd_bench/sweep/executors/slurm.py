"""Slots of a Slurm cluster: each submits one job at a time and tracks it in the queue."""

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
from kd_bench.jobs.worker import record_failure, run_job
from kd_bench.sweep.executors.late_files import LateResult
from kd_bench.utils.errors import UserError, error_text, failure_reason, message_lines, require
from kd_bench.utils.process import job_environment
from kd_bench.utils.supervisor import FAILED
from kd_bench.utils.text.output import print_lines

if TYPE_CHECKING:  # an optional dependency, imported where it is used
    import submitit

POLL_SECONDS = 1.0  # between two reads of the queue, one for all jobs

# States in `squeue` of jobs that have ended, unless they are requeued.
OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "GONE",  # not a Slurm state: the job is no longer in the queue
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}
# Reasons for which a job would wait forever.
NEVER = {"BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit"}


class Queue:
    """The state of all jobs submitted here, from `squeue`; `sacct` is not needed."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[str, str]] = {}
        self._read_at = -float("inf")

    def add(self, job_id: str) -> None:
        """Add a submitted job."""
        self._jobs[job_id] = ("PENDING", "None")

    def state(self, job_id: str) -> tuple[str, str]:
        """A job's state (RUNNING, ...) and the reason why it is waiting (Resources, ...)."""
        if time.monotonic() - self._read_at >= POLL_SECONDS:
            self._read()
            self._read_at = time.monotonic()
        return self._jobs[job_id]

    def _read(self) -> None:
        user = f"--user={os.getuid()}"
        command = ["squeue", "--noheader", "--states=all", user, "--format=%i|%T|%r"]
        try:
            output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return  # the controller is busy or restarting: keep the last known states
        found = {}
        for line in output.stdout.splitlines():
            job_id, state, reason = line.split("|", 2)
            found[job_id] = (state, reason)
        self._jobs = {job_id: found.get(job_id, ("GONE", "None")) for job_id in self._jobs}


@dataclass
class SlurmTask:
    """The function that submitit runs on the node, in a process of its own."""

    file: Path  # of the sweep
    number: int  # of the job
    log: Path
    is_requeued: bool = False  # at the time limit, by `checkpoint`

    def __call__(self) -> int:
        """Run the job and return its exit code.

        An interrupted job exits without returning, because submitit would treat the return value
        as its result.
        """
        with open(self.log, "ab") as output:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(output.fileno(), stream.fileno())
        # submitit ignores SIGTERM, so Slurm would kill the job half a minute later.
        signal.signal(signal.SIGTERM, signal.default_int_handler)

        try:
            code = run_job(self.file, self.number)
        except SystemExit as end:
            if self.is_requeued:
                raise
            record_failure(self.file, self.number, failure_reason(end))  # in a user's own code
            return FAILED
        except Exception as error:  # noqa: BLE001  # submitit would print the full traceback
            print_lines(*error_text(error).splitlines(), file=sys.stderr)
            return FAILED
        if code == INTERRUPTED:
            sys.exit(code)
        return code

    def checkpoint(self) -> Any:
        """The task to requeue at the time limit: the same job, which resumes from its last epoch.

        submitit calls this shortly before Slurm's time limit, and then ends the process.
        """
        from submitit.helpers import DelayedSubmission  # an optional dependency

        self.is_requeued = True
        return DelayedSubmission(SlurmTask(self.file, self.number, self.log))


class SlurmProcess:
    """A job in Slurm's queue."""

    def __init__(self, job: submitit.Job[int], folder: Path, queue: Queue):
        self.job, self._queue = job, queue
        self._result = LateResult(folder)
        self._code: int | None = None
        self._reason: str | None = None
        self._is_cancelled = False
        queue.add(job.job_id)

    def poll(self) -> int | None:
        """Its exit code; the one of a killed process if it left the queue without a result."""
        if self._code is None:
            self._code = self._exit_code()
            if self._code == 0:
                shutil.rmtree(self.job.paths.folder, ignore_errors=True)  # submitit's files
        return self._code

    def _exit_code(self) -> int | None:
        if self.job.paths.result_pickle.exists():
            code = 1 if self.job.exception() is not None else self.job.result()
            return self._result.final_code(code)
        state, reason = self._queue.state(self.job.job_id)
        if reason in NEVER:
            self.signal(signal.SIGTERM)
            self._reason = f"Slurm cannot place the job: {reason}; see hydra.launcher"
            return 1
        if state not in OVER:
            self._result.restart()
            return None
        if self._result.is_there():
            return 0
        # A job that is about to be requeued may briefly appear to have ended.
        if not (self._result.is_overdue() or self._is_cancelled):
            return None
        self._reason = f"Slurm job {self.job.job_id} ended without a result: {state}"
        return -signal.SIGKILL

    def signal(self, number: int) -> None:
        """Interrupt it if the signal is SIGINT and it is running; otherwise cancel it."""
        if self._code is not None:
            return
        self._is_cancelled = True
        state, _ = self._queue.state(self.job.job_id)
        options = []
        if number == signal.SIGINT and state == "RUNNING":
            options = ["--signal=INT"]
        # Errors are printed, so that the user notices if a job stays in the queue.
        subprocess.run(["scancel", "--quiet", *options, self.job.job_id], check=False)
        if number == signal.SIGKILL:
            command = ["scancel", "--quiet", "--full", "--signal=KILL", self.job.job_id]
            subprocess.run(command, check=False)

    def reason(self) -> str | None:
        """Why it ended, according to the queue."""
        return self._reason

    @property
    def description(self) -> str:
        """The job and its state: Slurm 4711 PENDING (Resources)."""
        state, reason = self._queue.state(self.job.job_id)
        return f"Slurm {self.job.job_id} {state}" + (f" ({reason})" if reason != "None" else "")


@dataclass(eq=False)
class SlurmSlot:
    """Room for one job of a sweep in the queue."""

    executor: submitit.SlurmExecutor
    queue: Queue
    process: SlurmProcess | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The state of its job."""
        return "Slurm" if self.process is None else self.process.description

    def start(self, file: Path, number: int, log: Path) -> SlurmProcess:
        """Submit job `number` of a sweep's file.

        Raises:
            UserError: Slurm refuses it.
        """
        from submitit.core.utils import FailedJobError  # an optional dependency

        task = SlurmTask(file.absolute(), number, log.absolute())
        try:
            with redirect_stderr(io.StringIO()):  # submitit also prints the error that it raises
                submitted = self.executor.submit(task)
        except FailedJobError as error:
            raise UserError(
                f"Slurm refuses the job: {message_lines(error)[-1]}; see hydra.launcher"
            ) from None
        self.process = SlurmProcess(submitted, log.absolute().parent, self.queue)
        return self.process


def slurm_slots(
    folder: Path, threads: int, parameters: Mapping[str, Any], number: int
) -> list[SlurmSlot]:
    """The slots of a sweep: one for each job that may be in the queue at once.

    Args:
        folder: for submitit's files, on a file system shared by the nodes.
        threads: per job.
        parameters: of `submitit.SlurmExecutor`; "setup" is a list of shell commands to run first.
        number: number of slots.
    """
    require(
        shutil.which("sbatch") is not None,
        "hydra/launcher=slurm: there is no sbatch on this machine; run kd-bench on a login node of"
        " the cluster, or choose hydra/launcher=local",
    )
    import submitit  # an optional dependency

    executor = submitit.SlurmExecutor(folder.absolute() / "%j")
    exports = [f"export {name}={value}" for name, value in job_environment(threads).items()]
    executor.update_parameters(
        **{**parameters, "setup": [*exports, *parameters["setup"]]},
        job_name="kd-bench",
        stderr_to_stdout=True,
    )
    queue = Queue()
    return [SlurmSlot(executor, queue) for _ in range(number)]
