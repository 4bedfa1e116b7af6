"""A process that trains on request, so that candidates share nothing but the machine.

python -m throughput.worker reads lines of JSON from its standard input: first the job to train,
then {"seconds": S} for every round. It answers each with a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import throughput
from kd_bench.jobs.job import Job


class WorkerExited(Exception):  # noqa: N818  # it is not always an error
    """The process of a candidate has ended."""


class Worker:
    """A handle for a process with a training loop.

    Args:
        kind: of the loop, see `loops.make_loop`.
        job: the job to train.
        loader_workers: number of DataLoader workers.
        environment: environment variables of the process.
    """

    def __init__(self, kind: str, job: Job, loader_workers: int, environment: Mapping[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "throughput.worker"],
            env=throughput.environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._send({"kind": kind, "job": job.to_json(), "loader_workers": loader_workers})

    def answer(self) -> dict[str, Any]:
        """The next answer: first the start-up times in seconds, then images and seconds per round.

        Raises:
            WorkerExited: the process has ended.
        """
        line = self._stdout.readline()
        if not line:
            raise WorkerExited(f"its process ended with exit code {self._process.wait()}")
        return json.loads(line)

    def train(self, seconds: float) -> None:
        """Start training; `answer` then returns the number of images."""
        self._send({"seconds": seconds})

    def end(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # it has ended already
            self._stdin.close()
        self._process.wait()
        self._stdout.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # it has ended, which `answer` reports
            self._stdin.write(json.dumps(message) + "\n")
            self._stdin.flush()


def main() -> None:
    """Train as requested, until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # keeps other output separate from the answers
    started = time.perf_counter()
    from throughput import loops  # imports torch, whose import time is measured

    imported = time.perf_counter()
    request = json.loads(sys.stdin.readline())
    job = Job.from_json(request["job"])
    loop = loops.make_loop(request["kind"], job, request["loader_workers"])
    ready = time.perf_counter()

    def answer(message: Mapping[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    answer({"import": imported - started, "prepare": ready - imported})
    for line in sys.stdin:
        images, seconds = loop.train(**json.loads(line))
        answer({"images": images, "seconds": seconds})


if __name__ == "__main__":
    main()
