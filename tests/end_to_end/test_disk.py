"""A sweep on a full disk, and in a folder that disappears."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.jobs import TINY
from helpers.shell import environment, results, run, start, wait_until

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
OWN = "name: own\nweights: {ce: 1.0, x: 1.0}\nlosses: {x: {_target_: own.Own}}\n"
WORDS = ("--config-dir", "conf", "-m", *TINY, "recipe.epochs=4", "method=own", "seed=0,1,2")
COMMAND = (*WORDS, "hydra.launcher.jobs_at_once=1")


def write_loss(folder: Path, action: str) -> None:
    """Write a method whose loss runs a statement at every step."""
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "method" / "own.yaml").write_text(OWN)
    (folder / "own.py").write_text(
        "import time\n"
        "from contextlib import suppress\n"
        "from pathlib import Path\n"
        "from kd_bench.interfaces import Loss\n\n"
        "def fill():\n"
        "    with suppress(OSError), open('runs/filler', 'ab', buffering=0) as file:\n"
        "        while True:\n"
        "            file.write(bytes(1000))\n\n"
        "class Own(Loss):\n"
        "    needs_teacher = False\n\n"
        "    def forward(self, student, teacher, batch):\n"
        f"        {action}\n"
        "        return student.logits.sum() * 0\n"
    )


def can_mount() -> bool:
    return subprocess.run([*NAMESPACE, "mount -t tmpfs tmpfs /tmp"]).returncode == 0


# The first job fills the disk to the last byte, which leaves no room even for error.txt.
FULL = f"""
mkdir runs; mount -t tmpfs -o size=4m tmpfs runs
sweep="{sys.executable} -m kd_bench {" ".join(COMMAND)}"
touch fill
$sweep || echo "exit code $?"
rm -r fill runs/filler
echo "then with some space"; ls -AR runs
$sweep
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs permission to mount a file system")
def test_jobs_fail_on_a_full_disk_and_resume_when_there_is_space(tmp_path):
    write_loss(tmp_path, "Path('fill').exists() and fill()")
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
    failures = [line for line in full.splitlines() if "FAILED: " in line]
    assert len(failures) == 3, full
    assert all("No space left on device" in line for line in failures), full
    assert "Traceback" not in done.stdout
    assert ".part" not in later
    assert later.count(": done: ") == 3


@pytest.mark.slow
def test_a_sweep_continues_after_its_folder_has_disappeared(tmp_path):
    write_loss(tmp_path, "time.sleep(0.1)")
    sweep = start(tmp_path, *COMMAND)
    wait_until(lambda: list(tmp_path.glob("runs/*/*/*/*/seed0/history.csv")), sweep)
    (tmp_path / "runs").rename(tmp_path / "gone")
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 1, output
    assert "Traceback" not in output
    assert output.count("FAILED: ") == 1
    assert "seed0 disappeared while its job ran; rerun the command" in output
    assert len(results(tmp_path)) == 2
    code, output = run(tmp_path, *COMMAND)
    assert code == 0, output
    assert len(results(tmp_path)) == 3
