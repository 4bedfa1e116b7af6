"""A sweep on a disk that is full, and in a folder that disappears."""

import subprocess
import sys

import pytest
from helpers.jobs import IMAGES, TINY
from helpers.shell import environment, results, run, start, wait_until

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
MOUNT = "mkdir -p runs; mount -t tmpfs -o size=400k tmpfs runs"
WORDS = " ".join([*IMAGES, "model=resnet8", "recipe=quickstart", "recipe.epochs=3", "device=cpu"])
# A job's checkpoints take about 700 kB, and its weights 320 kB: nothing else fits then.
FULL = f"""
{MOUNT}
sweep="{sys.executable} -m kd_bench -m {WORDS} tensorboard=false method=baseline seed=0,1"
$sweep hydra.launcher.jobs_at_once=1 || echo "exit code $?"
find runs -name "*.part"
echo "then with some space"
mount -o remount,size=40m runs
$sweep
"""


def can_mount() -> bool:
    return subprocess.run([*NAMESPACE, "mount -t tmpfs tmpfs /tmp"]).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs a file system of its own, for which it may ask")
def test_jobs_fail_on_a_full_disk_and_go_on_when_there_is_space(tmp_path):
    done = subprocess.run(
        [*NAMESPACE, FULL],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    full, _, later = done.stdout.partition("then with some space\n")
    assert done.returncode == 0, done.stdout
    assert "exit code 1" in full
    assert full.count("FAILED: OSError: [Errno 28] No space left on device") == 2, full
    assert "Traceback" not in done.stdout
    assert ".part" not in full
    assert later.count(": done: ") == 2


SLOW = """
import time
from pathlib import Path
from kd_bench.interfaces import Loss

class Slow(Loss):
    needs_teacher = False

    def forward(self, student, teacher, batch):
        time.sleep(0.1)
        return student.logits.sum() * 0
"""


@pytest.mark.slow
def test_a_sweep_goes_on_after_its_folder_has_disappeared(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "slow.yaml").write_text(
        "name: slow\nweights: {ce: 1.0, x: 1.0}\nlosses: {x: {_target_: slow.Slow}}\n"
    )
    words = ("--config-dir", "conf", "-m", *TINY, "recipe.epochs=4", "method=slow", "seed=0,1,2")
    words = (*words, "hydra.launcher.jobs_at_once=1")
    sweep = start(tmp_path, *words)
    wait_until(lambda: list(tmp_path.glob("runs/*/*/*/*/seed0/history.csv")), sweep)
    (tmp_path / "runs").rename(tmp_path / "gone")
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 1, output
    assert "Traceback" not in output
    assert output.count("FAILED: ") == 1
    assert "seed 0: FAILED: FileNotFoundError: [Errno 2] No such file or directory" in output
    assert len(results(tmp_path)) == 2
    code, output = run(tmp_path, *words)
    assert code == 0, output
    assert len(results(tmp_path)) == 3
