"""A process that trains when it is told to: contestants share a machine and nothing else.

python -m throughput.worker, then lines of JSON on its standard input: first what to train,
then {"seconds": S} for every round. It answers each with a line.
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


class WorkerExited(Exception):
    """A contestant's process is no more."""


class Worker:
    """The other end: a process with a loop in it.

    Args:
        kind: of loop, as `loops.make` has it.
        config: the job.
        workers: processes that load images for it.
        environment: of the process.
    """

    def __init__(
        self, kind: str, config: Mapping[str, Any], workers: int, environment: Mapping[str, str]
    ):
        command = [sys.executable, "-m", "throughput.worker"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=throughput.environment(environment), **pipes)
        self._tell({"kind": kind, "config": config, "workers": workers})

    def answer(self) -> dict[str, Any]:
        """What it says next: first its seconds of start and first step, then of every round."""
        line = self._process.stdout.readline()
        if not line:
            raise WorkerExited(f"it ended with exit code {self._process.wait()}")
        return json.loads(line)

    def go(self, seconds: float) -> None:
        """Have it train; `answer` tells how far it came."""
        self._tell({"seconds": seconds})

    def end(self) -> None:
        """Have it end."""
        with suppress(BrokenPipeError):  # it ended before
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, message: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # it ended, which its answer will tell
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()


def main() -> None:
    """Train as told, until nothing more is said."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what else is printed shall not mix with answers
    started = time.perf_counter()
    from throughput import loops  # torch: its import is part of what is timed

    imported = time.perf_counter()
    loop = loops.make(**json.loads(sys.stdin.readline()))
    ready = time.perf_counter()

    def say(message: Mapping[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    say({"import": imported - started, "prepare": ready - imported})
    for line in sys.stdin:
        images, seconds = loop.train(**json.loads(line))
        say({"images": images, "seconds": seconds})


if __name__ == "__main__":
    main()
