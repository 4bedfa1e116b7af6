"""Sweeps on Ray: a cluster of two nodes on this machine, with 2 + 1 stand-in GPUs, for .ci/ray."""

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
from seen import (
    STEPS,
    after_an_epoch,
    check_places,
    ended,
    is_alive,
    locks,
    prepare,
    results,
    seen,
    start,
    wait_until,
)

pytestmark = pytest.mark.skipif("KD_BENCH_RAY" not in os.environ, reason="started by .ci/ray")

CLUSTER = ("hydra/launcher=ray", "hydra.launcher.address=auto")
SIX = (*CLUSTER, "seed=0,1,2,3,4,5", "recipe.epochs=4")


def node(folder, gpus: int, *where: str) -> subprocess.Popen:
    """A node that lasts as long as the process that is returned.

    It is deaf to Ctrl-C, as what a script starts in the background is.
    """
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
    command = [shutil.which("ray"), "status", f"--address={address}"]
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    return f"/{gpus}.0 GPU" in told


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two nodes, found by address=auto; a home of their own, where Ray keeps its token."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # pytest's are too long for Ray's sockets
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


def test_six_jobs_one_of_whose_workers_is_killed_and_finished_by_the_same_command(tmp_path):
    prepare(tmp_path)
    sweep = start(tmp_path, *SIX)
    victim = wait_until(lambda: after_an_epoch(tmp_path), sweep)[0]
    os.kill(victim.parent, signal.SIGKILL)
    wait_until(lambda: not is_alive(victim.pid), sweep, seconds=5)  # its job ends with it
    code, printed = ended(sweep)
    assert code == 1, printed
    assert printed.count("FAILED: Ray lost the job: WorkerCrashedError") == 1
    assert "1 of 6 jobs failed:" in printed
    assert len(results(tmp_path)) == 5
    check_places(seen(tmp_path), places=3)

    before = {one.pid for one in seen(tmp_path)}
    code, printed = ended(start(tmp_path, *SIX))
    assert code == 0, printed
    assert printed.count("done already, nothing to train") == 5
    assert len(results(tmp_path)) == 6
    (again,) = (one for one in seen(tmp_path) if one.pid not in before)
    assert len(again.times) < 4 * STEPS  # it went on from its last epoch
    assert locks(tmp_path) == []


def test_ctrl_c_leaves_no_job_behind(tmp_path):
    prepare(tmp_path)
    sweep = start(tmp_path, *CLUSTER, "seed=0,1,2,3,4", "recipe.epochs=100000")
    wait_until(lambda: len(seen(tmp_path)) == 3, sweep)
    sweep.send_signal(signal.SIGINT)
    code, printed = ended(sweep)
    assert code == 130, printed
    assert "the same command again goes on from here" in printed
    assert "Traceback" not in printed
    assert not [one for one in seen(tmp_path) if is_alive(one.pid)]
    time.sleep(2)  # what waited in Ray's queue would have started by now
    assert len(seen(tmp_path)) == 3
    assert results(tmp_path) == [] and locks(tmp_path) == []


def test_a_cluster_without_room_for_a_job_is_one_line(tmp_path):
    prepare(tmp_path)
    code, printed = ended(start(tmp_path, *CLUSTER, "seed=0,1", "hydra.launcher.num_gpus=3"))
    assert code == 2
    assert printed == (
        "kd-bench: no node of the Ray cluster has room for a job with"
        " hydra.launcher.num_gpus=3, hydra.launcher.num_cpus=1\n"
    )
