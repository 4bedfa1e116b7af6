"""Sweeps on a real Slurm of one node with two stand-in GPUs; .ci/slurm starts it and this."""

import os
import signal
import subprocess
import time

import pytest
from seen import (
    STEPS,
    after_an_epoch,
    check_places,
    ended,
    locks,
    prepare,
    results,
    seen,
    start,
    wait_until,
)

pytestmark = pytest.mark.skipif("SLURM_CONF" not in os.environ, reason="started by .ci/slurm")

SMALL = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=0.5")
SIX = (*SMALL, "seed=0,1,2,3,4,5", "recipe.epochs=4")


def queue() -> list[str]:
    command = ["squeue", "--noheader", "--format=%i %T"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_six_jobs_one_of_them_cancelled_and_finished_by_the_same_command(tmp_path):
    prepare(tmp_path)
    sweep = start(tmp_path, *SIX)
    victim = wait_until(lambda: after_an_epoch(tmp_path), sweep)[0]
    subprocess.run(["scancel", victim.slurm_job], check=True)
    code, printed = ended(sweep)
    assert code == 1, printed
    reason = f"Slurm job {victim.slurm_job} ended without a result: "
    assert printed.count(f"FAILED: {reason}") == 1
    assert "1 of 6 jobs failed:" in printed
    assert len(results(tmp_path)) == 5
    check_places(seen(tmp_path), places=2)

    before = {one.pid for one in seen(tmp_path)}
    code, printed = ended(start(tmp_path, *SIX))
    assert code == 0, printed
    assert printed.count("done already, nothing to train") == 5
    assert len(results(tmp_path)) == 6
    (again,) = (one for one in seen(tmp_path) if one.pid not in before)
    assert len(again.times) < 4 * STEPS  # it went on from its last epoch
    assert queue() == [] and locks(tmp_path) == []


def test_ctrl_c_leaves_nothing_in_the_queue(tmp_path):
    prepare(tmp_path)
    sweep = start(tmp_path, *SMALL, "seed=0,1,2,3", "recipe.epochs=100000")
    wait_until(lambda: len(seen(tmp_path)) == 2, sweep)
    assert len(queue()) == 4  # two of them wait
    sweep.send_signal(signal.SIGINT)
    code, printed = ended(sweep)
    assert code == 130, printed
    assert "the same command again goes on from here" in printed
    assert "Traceback" not in printed
    end = time.monotonic() + 10
    while queue():
        assert time.monotonic() < end, queue()
        time.sleep(0.2)
    assert results(tmp_path) == [] and locks(tmp_path) == []


def test_a_job_that_is_put_back_into_the_queue_goes_on_from_its_last_epoch(tmp_path):
    prepare(tmp_path)
    sweep = start(tmp_path, *SMALL, "seed=0,1", "recipe.epochs=8")
    wait_until(lambda: len(after_an_epoch(tmp_path, epochs=8)) == 2, sweep)
    timed_out, taken_away = seen(tmp_path)
    # As Slurm does before a job's time is over, and as it does with a node that is needed.
    subprocess.run(["scancel", "--signal=USR2", timed_out.slurm_job], check=True)
    subprocess.run(["scontrol", "requeue", taken_away.slurm_job], check=True)
    code, printed = ended(sweep)
    assert code == 0, printed
    assert printed.count(": done: ") == 2
    before = {timed_out.pid, taken_away.pid}
    again = [one for one in seen(tmp_path) if one.pid not in before]
    assert {one.slurm_job for one in again} == {timed_out.slurm_job, taken_away.slurm_job}
    assert all(len(one.times) < 8 * STEPS for one in again)
    assert locks(tmp_path) == []


def test_what_slurm_refuses_is_one_line(tmp_path):
    prepare(tmp_path)
    code, printed = ended(start(tmp_path, *SMALL, "seed=0,1", "hydra.launcher.partition=nowhere"))
    assert code == 2
    assert printed.startswith("kd-bench: Slurm refuses the job: ") and printed.count("\n") == 1
    assert "invalid partition" in printed.lower()


def test_a_job_that_no_node_can_ever_take_fails_instead_of_waiting(tmp_path):
    prepare(tmp_path)
    code, printed = ended(start(tmp_path, *SMALL, "seed=0", "hydra.launcher.cpus_per_task=4096"))
    assert code == 1
    assert "FAILED: Slurm cannot place the job: PartitionConfig; " in printed
    assert queue() == []
