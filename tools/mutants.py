"""python tools/mutants.py: mutation tests: breaks critical code in 40 ways, and runs its tests.

python tools/mutants.py                 all mutants, in a copy of the checkout
python tools/mutants.py --only lock     only in files whose names contain this

A mutant that no test detects is printed as SURVIVED, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("kd_bench", "conf", "tests", "tools", "results", "docs", "pyproject.toml", "setup.cfg")


@dataclass(frozen=True)
class Mutant:
    """A fault: a text in a file, and its replacement."""

    file: str  # below kd_bench/
    right: str
    wrong: str
    tests: str  # paths below tests/, separated by spaces


IDENTITY, FILES, JOBS = "unit/config/test_identity.py", "unit/utils/test_files.py", "unit/jobs"
LOCK = "unit/utils/test_lock.py unit/utils/test_locked_folder.py"
CHECKPOINT, LOOP = "unit/training/test_checkpoint.py", "unit/training/test_loop.py"
TABLE = "unit/results"
METHODS = "unit/methods"

MUTANTS = [
    # Identity of a job
    Mutant("config/identity.py", "value.is_integer()", "False", IDENTITY),
    Mutant("config/identity.py", "if value is not None and canonical", "if canonical", IDENTITY),
    Mutant("config/identity.py", '{"root", "download", "weights",', '{"download",', IDENTITY),
    Mutant("config/identity.py", 'teacher["seed"] = config["seed"]', "pass", IDENTITY),
    Mutant("config/identity.py", '"compile", "precision", "threads",', '"compile",', IDENTITY),
    Mutant("config/identity.py", "if number != 1", "if number > 2", IDENTITY),
    Mutant("config/identity.py", '/seed{seed}"', '/seed0"', IDENTITY),
    Mutant("config/identity.py", r"\w[\w.+-]*", r"[\w.+-]*", IDENTITY),
    Mutant("config/identity.py", "if not (_is_name(name) and len", "if not (len", IDENTITY),
    Mutant("utils/files.py", "sort_keys=True", "sort_keys=False", f"{IDENTITY} {FILES}"),
    # Locks
    Mutant(
        "utils/lock.py",
        "return not _is_alive(int(pid), started)\n        now",
        "return False\n        now",
        LOCK,
    ),
    Mutant("utils/lock.py", "return _process_started(pid) == started", "return True", LOCK),
    Mutant("utils/lock.py", "return abs(age) > STALE_SECONDS", "return age > STALE_SECONDS", LOCK),
    Mutant("utils/lock.py", "return times[0] == times[1]", "return True", LOCK),
    Mutant("utils/lock.py", "os.utime(theirs)", "pass", LOCK),
    Mutant("utils/lock.py", "self.directory.rmdir()", "pass", LOCK),
    Mutant("utils/lock.py", "self.lost = self.lost or not self._is_mine()", "pass", LOCK),
    Mutant("utils/lock.py", 'state in "ZX"', "False", LOCK),
    Mutant("utils/lock.py", "            return error\n", "            return None\n", LOCK),
    Mutant("utils/locked_folder.py", "check=self.check", "check=lambda: None", LOCK),
    # Resuming a killed job
    Mutant("training/checkpoint.py", 'if about["sha256"] != ', "if False and ", CHECKPOINT),
    Mutant("training/checkpoint.py", 'if about["job"] != job', "if False", CHECKPOINT),
    Mutant("training/checkpoint.py", 'if about["format"] != FORMAT', "if False", CHECKPOINT),
    Mutant("training/checkpoint.py", "folder.rename(newest, before)", "pass", CHECKPOINT),
    Mutant("training/checkpoint.py", '.to("cpu", copy=True)', '.to("cpu")', CHECKPOINT),
    Mutant("training/loop.py", "    _write_readable(folder, progress)\n", "", LOOP),
    Mutant("training/loop.py", "if state is not None and 0 < done", "if False and 0 < done", LOOP),
    Mutant("utils/files.py", "        check()\n", "", f"{FILES} {LOCK}"),
    Mutant(
        "results/run_folder.py", "record.weights_sha256 in (None, file_hash(path))", "True", JOBS
    ),
    # Numbers in tables
    Mutant("results/analysis/statistics.py", "(len(sample) - 1 for", "(len(sample) for", TABLE),
    Mutant("results/analysis/statistics.py", "(1 + CONFIDENCE) / 2", "CONFIDENCE", TABLE),
    Mutant("results/analysis/statistics.py", "1 / n + 1 / m", "1 / n", TABLE),
    Mutant(
        "results/table.py", "cell.values[seed] - baseline.values[seed]", "cell.values[seed]", TABLE
    ),
    Mutant("results/analysis/comparison.py", " if k not in worse}", "}", TABLE),
    Mutant("results/table.py", "    if not _are_alike(columns):\n        return {}\n", "", TABLE),
    # Losses
    Mutant("methods/st.py", "self.temperature**2 * distance", "distance", METHODS),
    Mutant(
        "methods/common/functional.py", "F.kl_div(log_q, log_p,", "F.kl_div(log_p, log_q,", METHODS
    ),
    Mutant("methods/common/functional.py", "features.pow(2).mean(1)", "features.mean(1)", METHODS),
    Mutant("methods/rkd.py", '"angle": F.smooth_l1_loss(', '"angle": F.mse_loss(', METHODS),
    Mutant(
        "methods/common/method.py", "clamp(max=1.0)", "clamp(max=2.0)", f"{METHODS} unit/training"
    ),
]


def survives(mutant: Mutant, copy: Path) -> bool:
    """Whether the tests pass with a mutant.

    Raises:
        ValueError: the text to replace is not in the file.
    """
    path = copy / "kd_bench" / mutant.file
    source = path.read_text(encoding="utf-8")
    if mutant.right not in source:
        raise ValueError(f"{mutant.file} has no '{mutant.right}'")
    path.write_text(source.replace(mutant.right, mutant.wrong, 1), encoding="utf-8")
    try:
        tests = [f"tests/{each}" for each in mutant.tests.split()]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", *tests]
        environment = os.environ | {"PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False)
        return done.returncode == 0
    finally:
        path.write_text(source, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants, and print each with its outcome."""
    parser = argparse.ArgumentParser(description="Breaks critical code, and runs its tests.")
    parser.add_argument("--only", default="", help="only files whose names contain this")
    args = parser.parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if args.only in mutant.file]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy.mkdir()
        for name in COPIED:
            copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copied(ROOT / name, copy / name)
        for mutant in chosen:
            survived = survives(mutant, copy)
            survivors += survived
            outcome = "SURVIVED" if survived else "detected"
            fault = f"{mutant.right.strip()!r} -> {mutant.wrong.strip()!r}"
            print(f"{outcome:>8}  {mutant.file}: {fault}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants detected")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
