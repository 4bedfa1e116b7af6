"""Sweeps on a real Slurm cluster of one node with two simulated GPUs; started by .ci/slurm."""

import os
import signal
import subprocess
import time

import pytest
from helpers.cluster import (
    SEEDS_AND_EPOCHS,
    STEPS,
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

pytestmark = pytest.mark.skipif("SLURM_CONF" not in os.environ, reason="started by .ci/slurm")

SMALL = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=0.5")
# Two such jobs fit on the node, which has too few GPUs for them.
TWO = (*SMALL, "gpus_per_job=2", "hydra.launcher.gpus_per_node=null", *SEEDS_AND_EPOCHS)
SIX = (*SMALL, "seed=0,1,2,3,4,5", "recipe.epochs=4")


def queue() -> list[str]:
    """The jobs in Slurm's queue, with their states."""
    command = ["squeue", "--noheader", "--format=%i %T"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_cancelled_job_is_resumed_by_the_same_command(tmp_path):
    write_method(tmp_path)
    sweep = start(tmp_path, *SIX)
    victim = wait_until(lambda: can_resume(tmp_path), sweep)[0]
    subprocess.run(["scancel", victim.slurm_job], check=True)
    code, output = finish(sweep)
    assert code == 1, output
    (line,) = (line for line in output.splitlines() if "FAILED: " in line)
    assert f"Slurm job {victim.slurm_job} " in line
    assert "1 of 6 jobs failed:" in output
    check_places(seen(tmp_path), places=2)
    check_that_the_failed_job_resumes(tmp_path, *SIX)
    assert queue() == []
    assert locks(tmp_path) == []


def test_ctrl_c_leaves_nothing_in_the_queue(tmp_path):
    write_method(tmp_path)
    sweep = start(tmp_path, *SMALL, "seed=0,1,2,3", "recipe.epochs=100000")
    wait_until(lambda: len(seen(tmp_path)) == 2, sweep)
    assert len(queue()) == 4  # two of them pending
    sweep.send_signal(signal.SIGINT)
    code, output = finish(sweep)
    assert code == INTERRUPTED, output
    assert "the same command resumes the sweep" in output
    assert "Traceback" not in output
    deadline = time.monotonic() + 10
    while queue():
        assert time.monotonic() < deadline, queue()
        time.sleep(0.2)
    assert results(tmp_path) == {}
    assert locks(tmp_path) == []


def test_requeued_jobs_resume_from_their_last_epoch(tmp_path):
    write_method(tmp_path)
    sweep = start(tmp_path, *SMALL, "seed=0,1", "recipe.epochs=8")
    wait_until(lambda: len(can_resume(tmp_path, epochs=8)) == 2, sweep)
    out_of_time, without_node = seen(tmp_path)
    # As Slurm does shortly before a job's time limit, and when a node fails.
    subprocess.run(["scancel", "--signal=USR2", out_of_time.slurm_job], check=True)
    subprocess.run(["scontrol", "requeue", without_node.slurm_job], check=True)
    code, output = finish(sweep)
    assert code == 0, output
    assert output.count(": done: ") == 2
    before = {out_of_time.pid, without_node.pid}
    resumed = [job for job in seen(tmp_path) if job.pid not in before]
    assert {job.slurm_job for job in resumed} == {out_of_time.slurm_job, without_node.slurm_job}
    assert all(len(job.times) < 8 * STEPS for job in resumed)
    assert locks(tmp_path) == []


def test_two_jobs_of_two_processes_share_a_node_and_one_is_killed_and_resumed(tmp_path):
    write_method(tmp_path)
    sweep = start(tmp_path, *TWO)
    victim = wait_until(lambda: side_by_side(tmp_path), sweep)[0]
    processes = processes_of(tmp_path, victim)
    assert len(processes) == 2
    subprocess.run(["scancel", victim.slurm_job], check=True)
    wait_until(lambda: not any(is_alive(each.pid) for each in processes), sweep, seconds=10)
    code, output = finish(sweep)
    assert code == 1, output
    assert "1 of 2 jobs failed:" in output
    assert not is_alive(victim.parent)
    assert locks(tmp_path) == []
    check_that_both_jobs_end_as_on_this_machine(tmp_path, *TWO)
    assert queue() == []


def test_a_job_of_two_processes_has_two_gpus_and_reports_the_error_of_the_second(tmp_path):
    check_that_the_error_of_the_second_process_is_the_jobs(tmp_path, *SMALL)


def test_a_job_that_slurm_rejects_is_reported_in_one_line(tmp_path):
    write_method(tmp_path)
    code, output = finish(start(tmp_path, *SMALL, "seed=0,1", "hydra.launcher.partition=nowhere"))
    assert code == 2
    assert output.count("\n") == 1
    for fact in ("Slurm", "invalid partition", "hydra.launcher"):
        assert fact.lower() in output.lower()


def test_a_job_that_no_node_can_run_fails_instead_of_waiting(tmp_path):
    write_method(tmp_path)
    code, output = finish(start(tmp_path, *SMALL, "seed=0", "hydra.launcher.cpus_per_task=4096"))
    assert code == 1
    (line,) = (line for line in output.splitlines() if "FAILED: " in line)
    assert "PartitionConfig" in line
    assert queue() == []
