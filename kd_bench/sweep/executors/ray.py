"""A Ray cluster as places for jobs: each slot has one task at a time, which starts a process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_bench.jobs import worker
from kd_bench.jobs.protocol import PARENT
from kd_bench.utils.errors import UserError, message_lines, require
from kd_bench.utils.process import job_environment

if TYPE_CHECKING:
    import ray

POLL_SECONDS = 0.2  # how often a task is asked after
LATE_SECONDS = 5.0  # a node's files may show here so much later
GRACE_SECONDS = 8.0  # that an interrupted job has to end by itself


def run_task(frozen: str, number: int, log: str, folder: str, variables: Mapping[str, str]) -> int:
    """What runs in Ray's worker: job `number` as a process of its own; its exit code.

    Ray has chosen the GPUs, and says so in this process's environment. Interrupted, it passes that
    on; killed, it takes the job with it.
    """
    # A shell has what it starts in the background ignore it, a cluster's nodes, say; then
    # `ray.cancel` would not interrupt this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parent = {PARENT: str(os.getpid())}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", worker.__name__, frozen, str(number)],
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
        process.kill()
        process.wait()
    return process.returncode


class RayProcess:
    """A task of Ray."""

    def __init__(self, task: ray.ObjectRef, folder: Path):
        self._task, self._folder = task, folder
        self._code: int | None = None
        self._reason: str | None = None
        self._asked = -float("inf")
        self._over_since: float | None = None

    def poll(self) -> int | None:
        """Its exit code; of one whose worker or node was lost, that of a killed process."""
        if self._code is None and time.monotonic() - self._asked >= POLL_SECONDS:
            self._code = self._ask()
            self._asked = time.monotonic()
        return self._code

    def _ask(self) -> int | None:
        import ray

        if not ray.wait([self._task], timeout=0)[0]:
            return None
        try:
            code = ray.get(self._task)
        except ray.exceptions.RayTaskError as error:  # of `work` itself: no such folder, say
            self._reason = f"Ray: {message_lines(error)[-1]}"
            return 1
        except ray.exceptions.RayError as error:
            self._reason = f"Ray lost the job: {type(error).__name__}: {message_lines(error)[0]}"
            return -signal.SIGKILL
        return None if code == 0 and self._is_on_its_way() else code

    def _is_on_its_way(self) -> bool:
        """Whether the result of a job that says it is done may still show on this machine."""
        self._over_since = self._over_since or time.monotonic()
        is_late = time.monotonic() - self._over_since >= LATE_SECONDS
        # By reading the folder: of a single file, NFS may remember that it was not there.
        return not is_late and "result.json" not in os.listdir(self._folder)

    def signal(self, number: int) -> None:
        """Interrupt it, or take its worker away; a task that waits is forgotten."""
        import ray

        if self._code is None:
            ray.cancel(self._task, force=number != signal.SIGINT)

    def reason(self) -> str | None:
        """What Ray said of its end."""
        return self._reason


@dataclass(frozen=True)
class RaySlot:
    """The share of a cluster that one job takes, wherever Ray finds it."""

    number: int
    name: str
    task: Any = field(compare=False)  # `work` as Ray calls it
    environment: dict[str, str] = field(compare=False)

    def start(self, frozen: Path, number: int, log: Path) -> RayProcess:
        """Hand a job to Ray."""
        files = str(frozen.absolute()), number, str(log.absolute())
        task = self.task.remote(*files, os.getcwd(), self.environment)
        return RayProcess(task, log.absolute().parent)


def ray_slots(
    address: str, resources: Mapping[str, float], threads: int, jobs_at_once: int | None
) -> list[RaySlot]:
    """A slot for each job that fits into a cluster as it is now.

    Args:
        address: of a cluster that runs; "auto" for the one that this machine belongs to, "local"
            for one that lasts as long as the sweep.
        resources: of a job, "num_gpus" and "num_cpus".
        threads: of a job.
        jobs_at_once: so many slots; None: as many as there is room for.

    Raises:
        UserError: there is no such cluster, or no room for a job in it.
    """
    if (Path.home() / ".ray" / "auth_token").exists():
        # `ray start` has everybody show this token; without the mode, nobody does.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            f"no Ray cluster answers at hydra.launcher.address={address}"
            f" ({message_lines(error)[0]}); start one with 'ray start --head', on every"
            " node with the same RAY_AUTH_MODE and token, or choose hydra.launcher.address=local"
        ) from None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(_jobs_that_fit(node, resources) for node in nodes)
    wanted = ", ".join(f"hydra.launcher.{name}={value:g}" for name, value in resources.items())
    require(room > 0, f"no node of the Ray cluster has room for a job with {wanted}")
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
