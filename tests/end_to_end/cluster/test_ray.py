"""Sweeps on a local Ray cluster of two nodes with 2 + 1 simulated GPUs; started by .ci/ray."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
from helpers.cluster import (
    SEEDS_AND_EPOCHS,
    can_resume,
    check_places,
    check_that_both_jobs_end_as_on_this_machine,
    check_that_the_error_of_the_second_process_is_the_jobs,
    check_that_the_failed_job_resumes,
    finish,
    is_alive,
    locks,
    processes_of,
    seen,
    side_by_side,
    start,
    write_method,
)
from helpers.shell import results, wait_until

from kd_bench.jobs.protocol import INTERRUPTED

pytestmark = pytest.mark.skipif("KD_BENCH_RAY" not in os.environ, reason="started by .ci/ray")

CLUSTER = ("hydra/launcher=ray", "hydra.launcher.address=auto")
# Two such jobs fit on the first node, which has too few GPUs for them.
SHARES = ("hydra.launcher.num_gpus=0", "hydra.launcher.num_cpus=0.5")
TWO = (*CLUSTER, "gpus_per_job=2", *SHARES, *SEEDS_AND_EPOCHS)
SIX = (*CLUSTER, "seed=0,1,2,3,4,5", "recipe.epochs=4")


def node(folder, gpus: int, *where: str) -> subprocess.Popen:
    """Start a node that runs as long as its process, and ignores Ctrl-C like a background job."""
    size = (f"--num-gpus={gpus}", f"--num-cpus={gpus}", "--disable-usage-stats")
    with open(folder / f"node-{gpus}.log", "wb") as log:
        return subprocess.Popen(
            [shutil.which("ray"), "start", "--block", *where, *size],
            env=os.environ | {"RAY_AUTH_MODE": "token"},
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),
        )


def is_up(address: str, gpus: int) -> bool:
    """Whether the cluster has that many GPUs."""
    command = [shutil.which("ray"), "status", f"--address={address}"]
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    status = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    return f"/{gpus}.0 GPU" in status


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two nodes, found by address=auto; Ray stores its token in a separate home folder."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # paths of tmp_path are too long for sockets
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(folder))
    patch.setenv("RAY_ADDRESS", address)
    subprocess.run([shutil.which("ray"), "get-auth-token", "--generate"], check=True)
    port = address.partition(":")[2]
    head = ("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}/ray")
    nodes = [node(folder, 2, *head)]
    try:
        wait_until(lambda: is_up(address, 2), nodes[0])
        nodes.append(node(folder, 1, f"--address={address}"))
        wait_until(lambda: is_up(address, 3), nodes[1])
        yield
    finally:
        for process in reversed(nodes):
            process.terminate()
            process.wait(30)
        patch.undo()
        shutil.rmtree(folder)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_job_whose_worker_is_killed_is_resumed_by_the_same_command(tmp_path):
    write_method(tmp_path)
    sweep = start(tmp_path, *SIX)
    victim = wait_until(lambda: can_resume(tmp_path), sweep)[0]
    os.kill(parent_of(victim.parent), signal.SIGKILL)  # Ray's worker, parent of the supervisor
    wait_until(lambda: not is_alive(victim.pid), sweep, seconds=5)  # the job ends with it
    code, output = finish(sweep)
    assert code == 1, output
    (line,) = (line for line in output.splitlines() if "FAILED: " in line)
    assert "Ray lost the job" in line
    assert "WorkerCrashedError" in line
    assert "1 of 6 jobs failed:" in output
    check_places(seen(tmp_path), places=3)
    check_that_the_failed_job_resumes(tmp_path, *SIX)
    assert locks(tmp_path) == []


def test_ctrl_c_ends_all_jobs(tmp_path):
    write_method(tmp_path)
    sweep = start(tmp_path, *CLUSTER, "seed=0,1,2,3,4", "recipe.epochs=100000")
    wait_until(lambda: len(seen(tmp_path)) == 3, sweep)
    sweep.send_signal(signal.SIGINT)
    code, output = finish(sweep)
    assert code == INTERRUPTED, output
    assert "the same command resumes the sweep" in output
    assert "Traceback" not in output
    assert not [job for job in seen(tmp_path) if is_alive(job.pid)]
    time.sleep(2)  # a job left in Ray's queue would have started by now
    assert len(seen(tmp_path)) == 3
    assert results(tmp_path) == {}
    assert locks(tmp_path) == []


def test_two_jobs_of_two_processes_share_a_node_and_one_is_killed_and_resumed(tmp_path):
    write_method(tmp_path)
    sweep = start(tmp_path, *TWO)
    victim = wait_until(lambda: side_by_side(tmp_path), sweep)[0]
    processes = processes_of(tmp_path, victim)
    assert len(processes) == 2
    supervisor = parent_of(victim.parent)
    os.kill(parent_of(supervisor), signal.SIGKILL)  # Ray's worker
    wait_until(lambda: not any(is_alive(each.pid) for each in processes), sweep, seconds=10)
    code, output = finish(sweep)
    assert code == 1, output
    assert "1 of 2 jobs failed:" in output
    assert not is_alive(victim.parent)
    check_that_both_jobs_end_as_on_this_machine(tmp_path, *TWO)
    assert locks(tmp_path) == []


def test_a_job_of_two_processes_has_two_gpus_and_reports_the_error_of_the_second(tmp_path):
    check_that_the_error_of_the_second_process_is_the_jobs(tmp_path, *CLUSTER)


def test_a_cluster_too_small_for_a_job_is_reported_in_one_line(tmp_path):
    write_method(tmp_path)
    code, output = finish(start(tmp_path, *CLUSTER, "seed=0,1", "hydra.launcher.num_gpus=3"))
    assert code == 2
    assert output.count("\n") == 1
    for fact in ("Ray", "num_gpus=3", "num_cpus=1", "hydra.launcher.num_gpus"):
        assert fact in output
