"""The launchers as Hydra plugins, and what can be tested of cluster launchers without a cluster."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.jobs import TINY, config, job
from helpers.paths import PACKAGE, ROOT
from helpers.shell import environment
from omegaconf import OmegaConf

from kd_bench.config import compose
from kd_bench.config.schema import Device
from kd_bench.results.run_folder import RESULT
from kd_bench.sweep.executors import late_files, ray
from kd_bench.sweep.executors import slurm as slurm_executor
from kd_bench.sweep.executors.late_files import LateResult
from kd_bench.sweep.launchers import ray as ray_launcher
from kd_bench.sweep.launchers import registry
from kd_bench.sweep.launchers.base import SweepLauncher
from kd_bench.sweep.launchers.local import LocalLauncher
from kd_bench.sweep.launchers.slurm import SlurmConfig, SlurmLauncher
from kd_bench.sweep.retry import DEFAULT
from kd_bench.utils.errors import UserError


def python(program, folder, *arguments):
    """Run a program in a folder with this checkout's packages; return the words it prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# Hydra's plugins

SCAN = """
import sys
from hydra.core.plugins import Plugins
Plugins.instance()  # as every Hydra application does
print(*(name for name in sys.modules if name.partition(".")[0] == "kd_bench"))
"""
REGISTERED = """
import sys
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
import hydra_plugins
from kd_bench.sweep.launchers import ray as ray_launcher
from kd_bench.sweep.launchers import registry
from kd_bench.sweep.launchers.local import LocalLauncher
from kd_bench.sweep.retry import DEFAULT

assert not hasattr(hydra_plugins, "__file__") or hydra_plugins.__file__ is None, "a namespace"
registry.register(dry_run=len(sys.argv) > 1)
for group in ("launcher", "sweeper"):
    for file in ConfigStore.instance().list(f"hydra/{group}"):
        node = ConfigStore.instance().load(f"hydra/{group}/{file}").node
        target = OmegaConf.select(node, "_target_")
        if "kd_bench" in target:
            assert target in Plugins.instance().class_name_to_class
            print(file.removesuffix(".yaml"))
print(*(name for name in sys.modules if name == "torch"))
"""


@pytest.mark.slow
def test_other_hydra_applications_do_not_import_kd_bench(tmp_path):
    assert python(SCAN, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["dry_run"]], ids=["run", "plan"])
def test_each_plugin_is_registered_under_the_target_of_its_config_and_without_torch(
    tmp_path, words
):
    names = {*registry.LAUNCHERS, "grid", "tune"}
    found = python(REGISTERED, tmp_path, *words)
    assert set(found) == names
    assert len(found) == len(names)


def test_plugins_are_packaged_as_a_namespace():
    assert "\n    hydra_plugins\n" in (ROOT / "setup.cfg").read_text()
    assert not (PACKAGE / "sweep" / "launchers" / "hydra_plugins" / "__init__.py").exists()


def test_name_of_a_sweep_in_a_subfolder_has_no_folder(tmp_path):
    launcher = LocalLauncher(1, None, DEFAULT.on_error, DEFAULT.retries)
    choices = {"hydra": {"runtime": {"choices": {"sweep": "mine/first"}}}}
    launcher.config = OmegaConf.create(choices)
    assert re.fullmatch(r"first-[0-9a-f]{8}", launcher._name([job(tmp_path)]))


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "library"), [("slurm", "submitit"), ("ray", "ray")])
def test_missing_library_is_reported_in_one_line_with_the_command_that_installs_it(
    tmp_path, launcher, library
):
    program = (
        f"import sys; sys.modules['{library}'] = None; from kd_bench.cli.main import main; main()"
    )
    command = [sys.executable, "-c", program, "-m", f"hydra/launcher={launcher}", *TINY, "seed=0,1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    for fact in (f"hydra/launcher={launcher}", library, f'pip install "kd-bench[{launcher}]"'):
        assert fact in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
def test_slots_are_cores_if_gpus_are_hidden(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    launcher = LocalLauncher(1, None, DEFAULT.on_error, DEFAULT.retries)
    slots = launcher.slots(replace(config("runs"), device=Device.auto))
    assert [slot.name for slot in slots] == ["core 0", "core 1"]


class RecordingLauncher(SweepLauncher):
    """Keeps the threads and processes for which slots are requested, and stops there."""

    def slots(self, config):
        self.threads, self.processes = config.threads, config.gpus_per_job
        raise InterruptedError


@pytest.mark.slow
@pytest.mark.parametrize("threads", [(1, 2), (2, 1)])
def test_slots_fit_the_job_with_the_most_threads_and_that_with_the_most_processes(
    tmp_path, monkeypatch, threads
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    registry.register()
    overrides = (*TINY, "method=baseline", f"runs_dir={tmp_path}")
    launcher = RecordingLauncher(DEFAULT.on_error, DEFAULT.retries)
    with compose.initialized(), pytest.raises(InterruptedError):
        launcher.launch(
            [[*overrides, f"threads={number}", f"gpus_per_job={3 - number}"] for number in threads],
            0,
        )
    assert launcher.threads == launcher.processes == 2


def slurm_launcher(**settings):
    plain = vars(SlurmConfig()) | settings
    return SlurmLauncher(**{k: v for k, v in plain.items() if not k.startswith("_")})


def test_a_slurm_job_requests_the_resources_of_all_its_processes():
    launcher = slurm_launcher(mem_gb=1.5, cpus_per_task=3)
    alone, four = launcher._parameters(1), launcher._parameters(4)
    assert (alone["gpus_per_node"], alone["cpus_per_task"], alone["mem"]) == (1, 3, "1536MB")
    assert (four["gpus_per_node"], four["cpus_per_task"], four["mem"]) == (4, 12, "6144MB")
    assert four["srun_args"] == ["--cpus-per-task=12"]  # which sbatch does not pass on to srun


def test_a_slurm_job_does_not_request_resources_that_are_null():
    launcher = slurm_launcher(mem_gb=None, cpus_per_task=None, gpus_per_node=None)
    names = {"gpus_per_node", "cpus_per_task", "mem", "srun_args"}
    assert not names & launcher._parameters(4).keys()


def ray_resources(monkeypatch, processes, **settings):
    """What a Ray task requests for a job with this number of processes."""
    asked = []
    monkeypatch.setattr(
        ray_launcher, "ray_slots", lambda address, resources, *_: asked.append(resources)
    )
    plain = vars(ray_launcher.RayConfig()) | settings
    launcher = ray_launcher.RayLauncher(**{k: v for k, v in plain.items() if k != "_target_"})
    launcher.slots(replace(config("runs"), gpus_per_job=processes))
    return asked[0]


def test_a_ray_task_requests_the_resources_of_all_processes_of_its_job(monkeypatch):
    assert ray_resources(monkeypatch, 1, num_gpus=0.5) == {"num_gpus": 0.5, "num_cpus": 1}
    assert ray_resources(monkeypatch, 4, num_cpus=2.0) == {"num_gpus": 4, "num_cpus": 8}
    assert ray_resources(monkeypatch, 2, num_gpus=0.0) == {"num_gpus": 0, "num_cpus": 2}


def test_the_processes_of_a_ray_job_do_not_share_a_gpu(monkeypatch):
    with pytest.raises(UserError, match=r"num_gpus must be a whole number, got 0\.5"):
        ray_resources(monkeypatch, 2, num_gpus=0.5)


# Results from other machines


def test_exit_code_0_is_final_once_the_result_is_visible_or_overdue(tmp_path, monkeypatch):
    monkeypatch.setattr(late_files, "LATE_SECONDS", 0.1)
    early, late = LateResult(tmp_path), LateResult(tmp_path)
    assert early.final_code(0) is None
    assert early.final_code(3) == 3
    (tmp_path / RESULT).touch()
    assert early.final_code(0) == 0
    (tmp_path / RESULT).unlink()
    assert late.final_code(0) is None
    time.sleep(0.15)
    assert late.final_code(0) == 0
    late.restart()
    assert late.final_code(0) is None


# Slurm


class Paths:
    def __init__(self, folder):
        self.folder, self.result_pickle = folder, folder / "result.pkl"


class SubmittedJob:
    """A stand-in for submitit's job."""

    def __init__(self, job_id, folder):
        self.job_id, self.paths = job_id, Paths(folder / f"submitit-{job_id}")
        self.paths.folder.mkdir()

    def exception(self):
        return None

    def result(self):
        return int(self.paths.result_pickle.read_text())


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A `squeue` that prints the file `queue`, and a `scancel`; both add a line to `calls`."""
    for name in ("squeue", "scancel"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n')
        script.chmod(0o755)
    with open(tmp_path / "bin" / "squeue", "a") as script:
        script.write(f"cat {tmp_path}/queue\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(late_files, "LATE_SECONDS", 0.1)
    monkeypatch.setattr(slurm_executor, "POLL_SECONDS", 0.0)
    (tmp_path / "runs").mkdir()

    def process(job_id, queue):
        job = SubmittedJob(job_id, tmp_path)
        return slurm_executor.SlurmProcess(job, tmp_path / "runs", queue)

    return process


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def test_squeue_runs_once_for_all_jobs(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(slurm_executor, "POLL_SECONDS", 60.0)
    (tmp_path / "queue").write_text("".join(f"{i}|RUNNING|None\n" for i in range(50)))
    queue = slurm_executor.Queue()
    processes = [slurm(str(i), queue) for i in range(50)]
    assert [process.poll() for process in processes * 3] == [None] * 150
    assert len(calls(tmp_path)) == 1


def test_job_that_leaves_the_queue_without_a_result_counts_as_killed(tmp_path, slurm):
    (tmp_path / "queue").write_text("6|RUNNING|None\n")  # 7 is no longer listed
    process = slurm("7", slurm_executor.Queue())
    assert process.poll() is None  # its result may still become visible
    time.sleep(0.15)
    assert process.poll() == -signal.SIGKILL
    assert "7" in process.reason()
    assert "GONE" in process.reason()


def test_a_job_is_done_when_its_late_result_becomes_visible(tmp_path, slurm):
    (tmp_path / "queue").write_text("7|COMPLETED|None\n")
    process = slurm("7", slurm_executor.Queue())
    assert process.poll() is None
    (tmp_path / "runs" / RESULT).touch()
    assert process.poll() == 0
    assert not process.job.paths.folder.exists()  # submitit's files are no longer needed


def test_requeued_job_has_not_ended(tmp_path, slurm):
    process = slurm("7", slurm_executor.Queue())
    for state in ("RUNNING", "PREEMPTED", "PENDING", "NODE_FAIL", "RUNNING"):
        (tmp_path / "queue").write_text(f"7|{state}|None\n")
        assert process.poll() is None
        time.sleep(0.06)  # two of these are longer than LATE_SECONDS


def test_states_are_kept_while_squeue_fails(tmp_path, slurm):
    process = slurm("7", slurm_executor.Queue())
    time.sleep(0.15)
    assert process.poll() is None  # without a file `queue`, squeue fails
    time.sleep(0.15)
    assert process.poll() is None


@pytest.mark.parametrize("code", [75, 130, 1])
def test_exit_code_comes_from_the_file_that_the_job_leaves(tmp_path, slurm, code):
    (tmp_path / "queue").write_text("7|RUNNING|None\n")
    process = slurm("7", slurm_executor.Queue())
    process.job.paths.result_pickle.write_text(str(code))
    assert process.poll() == code


@pytest.mark.parametrize(
    ("state", "number", "expected"),
    [
        ("PENDING", signal.SIGINT, ["scancel --quiet 7"]),
        ("RUNNING", signal.SIGINT, ["scancel --quiet --signal=INT 7"]),
        ("RUNNING", signal.SIGTERM, ["scancel --quiet 7"]),
        (
            "RUNNING",
            signal.SIGKILL,
            ["scancel --quiet 7", "scancel --quiet --full --signal=KILL 7"],
        ),
    ],
)
def test_waiting_job_is_cancelled_and_running_job_is_interrupted_first(
    tmp_path, slurm, state, number, expected
):
    (tmp_path / "queue").write_text(f"7|{state}|None\n")
    slurm("7", slurm_executor.Queue()).signal(number)
    assert calls(tmp_path)[1:] == expected


def test_machine_without_slurm_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch") as refused:
        slurm_executor.slurm_slots(tmp_path, 1, {"setup": []}, 1)
    assert "hydra/launcher=local" in str(refused.value)


# Ray


@pytest.mark.parametrize(
    ("gpus", "cpus", "fit"),
    [
        (1.0, 1.0, 2),  # 2 GPUs and 8 cores: the GPUs are the limit
        (0.5, 1.0, 4),
        (0.0, 3.0, 2),
        (1.0, 5.0, 1),
        (3.0, 1.0, 0),
    ],
)
def test_number_of_jobs_that_fit_on_a_node(gpus, cpus, fit):
    node = {"GPU": 2.0, "CPU": 8.0, "memory": 1e9}
    assert ray._jobs_that_fit(node, {"num_gpus": gpus, "num_cpus": cpus}) == fit


def test_job_ends_with_the_process_that_started_it(tmp_path):
    # As in a Ray worker; the job itself waits for a pipe that nobody opens.
    os.mkfifo(tmp_path / "jobs.jsonl")
    program = (
        "import os, subprocess, sys, time\n"
        "environment = os.environ | {'KD_BENCH_PARENT': str(os.getpid())}\n"
        "job = subprocess.Popen([sys.executable, '-m', 'kd_bench.jobs.worker', sys.argv[1], '0'],"
        " env=environment)\n"
        "print(job.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "jobs.jsonl")]
    worker = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    pid = int(worker.stdout.readline())
    time.sleep(0.5)
    assert _state(pid) in "SRD"
    worker.kill()
    worker.wait()
    deadline = time.monotonic() + 20
    while _state(pid) not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _state(pid):
    """The state of a process, one letter; X if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
