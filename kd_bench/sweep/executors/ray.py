"""Slots of a Ray cluster: each runs one task at a time, which starts the job's process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_bench.jobs import worker
from kd_bench.jobs.protocol import PARENT
from kd_bench.sweep.executors.late_files import LateResult
from kd_bench.utils.errors import UserError, message_lines, require
from kd_bench.utils.process import job_environment

if TYPE_CHECKING:  # an optional dependency, imported where it is used
    import ray

POLL_SECONDS = 0.2  # between two polls of a task
GRACE_SECONDS = 7.0  # for an interrupted job to end by itself
END_SECONDS = 1.5  # for its child processes; the sum is below the scheduler's grace period


def run_task(file: str, number: int, log: str, folder: str, variables: Mapping[str, str]) -> int:
    """Run job `number` of a sweep's file in its own process; this function runs in a Ray worker.

    The environment contains the GPUs that Ray chose. An interruption is forwarded to the job, and
    the job ends with this process.

    Returns:
        The job's exit code.
    """
    # A shell starts background processes, often including a cluster's nodes, with SIGINT ignored;
    # `ray.cancel` would then have no effect.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parent = {PARENT: str(os.getpid())}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", worker.__name__, file, str(number)],
            cwd=folder,
            env=os.environ | variables | parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while process.poll() is None:
            time.sleep(0.1)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait(GRACE_SECONDS)
        raise
    finally:
        process.terminate()  # also ends the job's child processes
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        process.kill()
        process.wait()
    return process.returncode


class RayProcess:
    """A job's task in Ray."""

    def __init__(self, task: ray.ObjectRef, folder: Path):
        self._task = task
        self._result = LateResult(folder)
        self._code: int | None = None
        self._reason: str | None = None
        self._polled_at = -float("inf")

    def poll(self) -> int | None:
        """Its exit code; the one of a killed process if its worker or node was lost."""
        if self._code is None and time.monotonic() - self._polled_at >= POLL_SECONDS:
            self._code = self._exit_code()
            self._polled_at = time.monotonic()
        return self._code

    def _exit_code(self) -> int | None:
        import ray  # an optional dependency

        if not ray.wait([self._task], timeout=0)[0]:
            return None
        try:
            code = ray.get(self._task)
        except ray.exceptions.RayTaskError as error:  # in `run_task` itself: no such folder, e.g.
            self._reason = f"Ray: {message_lines(error)[-1]}"
            return 1
        except ray.exceptions.RayError as error:
            self._reason = f"Ray lost the job: {type(error).__name__}: {message_lines(error)[0]}"
            return -signal.SIGKILL
        return self._result.final_code(code)

    def signal(self, number: int) -> None:
        """Interrupt it, or kill its worker; a waiting task is dropped."""
        import ray  # an optional dependency

        if self._code is None:
            ray.cancel(self._task, force=number != signal.SIGINT)

    def reason(self) -> str | None:
        """Why it ended, according to Ray."""
        return self._reason


@dataclass(frozen=True)
class RaySlot:
    """The share of a cluster for one job; Ray chooses the node."""

    number: int
    name: str
    task: Any = field(compare=False)  # `run_task` as a remote function
    environment: dict[str, str] = field(compare=False)

    def start(self, file: Path, number: int, log: Path) -> RayProcess:
        """Submit job `number` of a sweep's file."""
        arguments = str(file.absolute()), number, str(log.absolute())
        task = self.task.remote(*arguments, os.getcwd(), self.environment)
        return RayProcess(task, log.absolute().parent)


def ray_slots(
    address: str, resources: Mapping[str, float], threads: int, jobs_at_once: int | None
) -> list[RaySlot]:
    """The slots of a sweep: by default, as many as jobs fit into the cluster now.

    Args:
        address: of a running cluster; "auto": the cluster that this machine belongs to; "local": a
            new one for the duration of the sweep.
        resources: per job, "num_gpus" and "num_cpus".
        threads: per job.
        jobs_at_once: number of slots; None: as many as jobs fit.

    Raises:
        UserError: there is no such cluster, or no node of it can run a job.
    """
    if (Path.home() / ".ray" / "auth_token").exists():
        # `ray start` then requires this token, which is only sent in this mode.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray  # an optional dependency

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            f"cannot connect to a Ray cluster at hydra.launcher.address={address}"
            f" ({message_lines(error)[0]}); start one with 'ray start --head', with the same"
            " RAY_AUTH_MODE and token on every node, or choose hydra.launcher.address=local"
        ) from None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(_jobs_that_fit(node, resources) for node in nodes)
    wanted = ", ".join(f"{name}={value:g}" for name, value in resources.items())
    require(
        room > 0,
        f"no node of the Ray cluster has room for a job with {wanted}; set"
        " hydra.launcher.num_gpus and num_cpus (of each of its gpus_per_job processes)",
    )
    task = ray.remote(max_retries=0, **resources)(run_task)
    shared = job_environment(threads)
    if "PYTHONPATH" in os.environ:
        shared["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return [
        RaySlot(number, f"Ray {number + 1}", task, shared)
        for number in range(room if jobs_at_once is None else jobs_at_once)
    ]


def _jobs_that_fit(node: Mapping[str, float], resources: Mapping[str, float]) -> int:
    has = {"num_gpus": node.get("GPU", 0.0), "num_cpus": node.get("CPU", 0.0)}
    return int(min(has[name] // need for name, need in resources.items() if need > 0))
