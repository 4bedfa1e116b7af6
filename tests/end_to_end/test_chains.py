"""Sweeps with chains and ensembles: each job trains once, missing jobs resume, failures spread."""

import shutil
from pathlib import Path

import pytest
from helpers.jobs import TINY
from helpers.shell import results, run

FAST = (*TINY, "recipe.epochs=1")

pytestmark = pytest.mark.slow


def folder_of(runs: Path, job: str) -> Path:
    (result,) = runs.glob(f"runs/synthetic/{job}/result.json")
    return result.parent


def test_a_sweep_trains_each_job_of_its_chains_once_and_later_only_missing_ones(tmp_path):
    command = ("-m", *FAST, "method=assistant,born_again,ensemble_teacher")
    code, output = run(tmp_path, *command)
    assert code == 0, output
    # The three requested jobs, teachers of three seeds, the assistant and the first generation
    assert output.count(": done: ") == len(results(tmp_path)) == 8

    before = results(tmp_path)
    assistant = folder_of(tmp_path, "resnet20-resnet8/st/*/seed0")
    student = folder_of(tmp_path, "*/assistant/*/seed0")
    for folder in (assistant, student):
        shutil.rmtree(folder)
    code, output = run(tmp_path, *command)
    assert code == 0, output
    assert output.count(": done: ") == 2
    assert output.count("already done, nothing to train") == 6
    after = results(tmp_path)
    trained = {path for path in after if after[path] != before.get(path)}
    assert {path.parent for path in trained} == {assistant, student}

    code, output = run(tmp_path, "rerun", str(folder_of(tmp_path, "*/born_again/*/seed0")))
    assert code == 0, output
    assert "equal bit for bit" in output


def test_a_failed_teacher_is_one_failure_that_lists_the_whole_chain(tmp_path):
    fails = ("teacher.recipe.lr=1e30", "teacher.recipe.schedule=constant")
    code, output = run(tmp_path, "-m", *FAST, "method=assistant", *fails)
    assert code == 1
    (line,) = (line for line in output.splitlines() if "FAILED: " in line)
    dependents = line.rpartition(": ")[2]
    assert "resnet20-resnet8 st seed 0" in dependents
    assert "assistant seed 0" in dependents
    assert output.count("its teacher failed") == 2
