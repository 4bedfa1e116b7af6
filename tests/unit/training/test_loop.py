"""Real training of small jobs: reproducible bits, equal starts, teachers, resuming and records."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from helpers import shipped
from helpers.jobs import (
    FOR_ANY_STUDENT,
    NETS,
    configured,
    job,
    of_method,
    setup_of,
    train,
    trained,
)
from helpers.resuming import has_equal_bits, interrupt

import kd_bench
from kd_bench.jobs import record as record_module
from kd_bench.jobs.job import write_jobs
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.runner import NullReporter, run_with_teacher
from kd_bench.results.record import Accuracy, Images
from kd_bench.results.run_folder import read_record
from kd_bench.training import loop
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.training.step import EpochMetrics, Step
from kd_bench.utils import lock

pytestmark = pytest.mark.usefixtures("one_thread")


def bits(state) -> str:
    """A hash of every bit of a state dict."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_bits(folder: Path) -> str:
    return bits(torch.load(folder / "weights.pt", weights_only=True))


def assembled(runs, *overrides) -> TrainingSetup:
    return setup_of(job(runs, *overrides))


# One seed, many methods


@pytest.mark.slow
def test_with_one_seed_every_method_starts_from_the_same_student(runs):
    starts = {
        bits(assembled(runs, f"method={name}", "seed=3").student.net.state_dict())
        for name in ("baseline", "st", "at", "logits")
    }
    assert len(starts) == 1


@pytest.mark.slow
def test_with_one_seed_every_method_sees_the_same_batches_in_the_same_order(runs, monkeypatch):
    # Assembled before steps are recorded, because that may train the teacher.
    setups = {name: assembled(runs, f"method={name}") for name in ("baseline", "st", "at")}
    seen, batches = {}, []
    original = Step.__call__

    def watch(self, batch, shown=None):
        # A method that draws random numbers must not change the batches.
        torch.rand(17)
        batches.append((batch.index.tolist(), bits({"image": batch.image})))
        return original(self, batch, shown)

    monkeypatch.setattr(Step, "__call__", watch)
    for name, setup in setups.items():
        train(setup, runs)
        seen[name] = batches.copy()
        batches.clear()
    assert len(seen["baseline"]) == 6  # two epochs of 16 + 16 + 8 images
    assert seen["baseline"] == seen["st"] == seen["at"]


def test_seeds_differ_in_weights_and_order(runs):
    one, other = (assembled(runs, "method=baseline", f"seed={seed}") for seed in (0, 1))
    assert bits(one.student.net.state_dict()) != bits(other.student.net.state_dict())
    orders = [work.order("main", 1).tolist() for work in (one, other)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))


def test_the_order_changes_from_epoch_to_epoch(runs):
    work = assembled(runs, "method=baseline")
    first, second = (work.order("main", epoch).tolist() for epoch in (1, 2))
    assert first != second


def test_the_smaller_last_batch_is_used_unless_the_recipe_drops_it(runs):
    assert assembled(runs, "method=baseline").step_sizes == [16, 16, 8]
    dropping = assembled(runs, "method=baseline", "recipe.drop_last=true")
    assert dropping.step_sizes == [16, 16]


# The teacher


@pytest.mark.slow
def test_methods_share_a_teacher(runs):
    record, _ = trained(job(runs, "method=st"))
    other, _ = trained(job(runs, "method=at"))
    assert record.teacher.folder == other.teacher.folder
    teacher = read_record(runs / record.teacher.folder)
    assert record.teacher.accuracy == teacher.accuracy.last


@pytest.mark.slow
def test_with_a_given_checkpoint_no_teacher_is_trained(runs, tmp_path):
    record, _ = trained(job(runs, "method=st"))
    file = runs / record.teacher.folder / "weights.pt"
    expected = f"teacher.expected_accuracy={record.teacher.accuracy}"
    again, _ = trained(job(tmp_path, "method=st", f"teacher.checkpoint={file}", expected))
    assert again.accuracy == record.accuracy
    assert again.teacher.folder is None
    assert not list(tmp_path.glob("*/none-*"))


# Equal bits


@pytest.mark.slow
def test_the_same_job_twice_gives_the_same_bits(runs, tmp_path):
    _, one = trained(job(runs, "method=st"))
    _, other = trained(job(tmp_path, "method=st"))
    assert (one / "history.csv").read_text() == (other / "history.csv").read_text()
    assert file_bits(one) == file_bits(other)


def first_epoch(folder: Path) -> dict[str, float]:
    """The numbers of a job's first epoch."""
    names, values = (line.split(",") for line in (folder / "history.csv").read_text().split()[:2])
    return {n: float(v) for n, v in zip(names, values, strict=True) if n != "stage"}


# Some methods need them.
EQUAL_WIDTHS = ("model.net.widths=[8,8,8,8]", "teacher.model.net.widths=[8,8,8,8]")


def has_own_test(name: str) -> bool:
    """Whether another file interrupts jobs of this method: test_init_phase or test_preparation."""
    return name in {"gkl", "nd"} or bool(shipped.load("method", name).init.weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in shipped.choices("method") if not has_own_test(n)])
def test_an_interrupted_job_resumes_to_the_same_bits(runs, other_runs, name):
    overrides = (*of_method(name), *EQUAL_WIDTHS)
    _, whole = trained(job(runs, *overrides))
    the_job = job(other_runs, *overrides)
    interrupt(the_job)
    _, parts = trained(the_job)
    assert has_equal_bits(parts, whole)


def start(file: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "kd_bench.jobs.worker", str(file), "0"]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_a_killed_job_that_is_restarted_has_the_bits_of_an_undisturbed_one(tmp_path):
    folders = []
    for name in ("undisturbed", "killed"):
        the_job = job(tmp_path / name, "method=st", "recipe.epochs=30")
        trained(the_job.teacher)
        folder = the_job.path
        file = write_jobs([the_job], name)
        process = start(file)
        if name == "killed":
            history = folder / "history.csv"
            while not history.exists() or len(history.read_text().splitlines()) < 6:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert not (folder / "result.json").exists()
            process = start(file)
        assert process.wait() == 0
        folders.append(folder)
    assert len({file_bits(folder) for folder in folders}) == 1
    assert len({(folder / "history.csv").read_text() for folder in folders}) == 1
    assert len((folders[0] / "history.csv").read_text().splitlines()) == 31


@pytest.mark.slow
def test_a_job_killed_before_any_rename_resumes_to_the_same_bits(tmp_path, monkeypatch):
    _, whole = trained(job(tmp_path / "whole", "method=baseline"))
    for number in range(12):  # 3 and 4 of two epochs, history, timing, weights, logits, result
        the_job = job(tmp_path / f"killed{number}", "method=baseline")
        with monkeypatch.context() as patched:
            kill_before_rename(patched, number)
            with pytest.raises(Killed):
                trained(the_job)
        assert not (the_job.path / "result.json").exists()
        _, parts = trained(the_job)
        assert (parts / "history.csv").read_text() == (whole / "history.csv").read_text()
        assert [line.split(",")[0] for line in (parts / "timing.csv").open()] == ["epoch", "1", "2"]
        assert file_bits(parts) == file_bits(whole)


class Killed(BaseException):
    """Ends a job as SIGKILL would: no more files are renamed."""


def kill_before_rename(patched: pytest.MonkeyPatch, number: int) -> None:
    """End a job before the rename with this number, counted from 0."""
    replace, renames = os.replace, count()

    def rename(old, new):
        if next(renames) >= number:
            raise Killed
        replace(old, new)

    patched.setattr(os, "replace", rename)


@pytest.mark.slow
def test_a_job_with_a_damaged_checkpoint_resumes_from_the_previous_one(tmp_path):
    the_job = job(tmp_path, "method=baseline", "recipe.epochs=3")
    folder = tmp_path / the_job.folder
    interrupt(the_job, after=[2])
    (folder / "checkpoint.pt").write_bytes(b"not what it was")
    with pytest.warns(UserWarning, match=r"checkpoint\.pt\.damaged"):
        trained(the_job)
    _, whole = trained(job(tmp_path / "whole", "method=baseline", "recipe.epochs=3"))
    assert file_bits(folder) == file_bits(whole)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["seed=1", "recipe.lr=0.02"])
def test_a_job_does_not_resume_from_the_checkpoint_of_another(tmp_path, change):
    one, other = (
        job(tmp_path, "method=baseline", "recipe.epochs=3", *more) for more in ([], [change])
    )
    interrupt(one, after=[2])
    shutil.copytree(one.path, other.path)
    with pytest.warns(UserWarning, match=f"it belongs to another job, {one.folder}"):
        trained(other)
    _, whole = trained(job(tmp_path / "whole", "method=baseline", "recipe.epochs=3", change))
    assert (other.path / "history.csv").read_text() == (whole / "history.csv").read_text()


def test_a_finished_job_keeps_only_weights_logits_and_records(runs):
    _, folder = trained(job(runs, "method=st"))
    names = {path.name for path in folder.iterdir()}
    assert names == {"weights.pt", "test_logits.pt", "result.json", "history.csv", "timing.csv"}


def test_a_finished_job_is_not_trained_again(runs):
    the_job = job(runs, "method=st")
    trained(the_job)
    assert run_with_teacher(the_job, NullReporter())[1] is False


# What is measured


def test_every_test_image_is_evaluated(runs):
    work = assembled(runs, "method=baseline")
    assert len(loop.predictions(work.student, work.data, work.data.test)) == 24
    assert work.student.training


def test_epoch_metrics_are_means_over_images_not_over_batches():
    tally = EpochMetrics(["ce", "total"], torch.device("cpu"))
    tally.add(1, {"ce": torch.tensor(1.0), "total": torch.tensor(2.0)}, torch.tensor(3), 4)
    tally.add(2, {"ce": torch.tensor(4.0), "total": torch.tensor(5.0)}, torch.tensor(1), 1)
    # (4 * 1 + 1 * 4) / 5 = 1.6; (4 * 2 + 1 * 5) / 5 = 2.6; 4 of 5 right
    assert tally.means(1) == pytest.approx({"ce": 1.6, "total": 2.6, "train_accuracy": 80.0})


def test_a_loss_that_is_not_finite_is_an_error_with_epoch_step_and_terms():
    tally = EpochMetrics(["ce", "st"], torch.device("cpu"))
    for step, value in ((1, 1.0), (2, float("nan")), (3, float("inf"))):
        tally.add(step, {"ce": torch.tensor(0.5), "st": torch.tensor(value)}, torch.tensor(0), 1)
    with pytest.raises(FloatingPointError, match=r"epoch 7, step 2: ce = 0\.5, st = nan"):
        tally.means(7)


def test_a_job_that_diverges_leaves_an_error_and_no_result(tmp_path):
    the_job = job(tmp_path, "method=baseline", "recipe.lr=1e30", "recipe.schedule=constant")
    with pytest.raises(FloatingPointError, match="epoch 1, step"):
        trained(the_job)
    folder = tmp_path / the_job.folder
    assert (folder / "error.txt").read_text().startswith("FloatingPointError: the loss is not")
    assert not (folder / "result.json").exists()


def test_the_code_version_is_the_commit_and_whether_the_code_differs_from_it(tmp_path, monkeypatch):
    def git(*words):
        mine = ["-c", "user.name=x", "-c", "user.email=x@x"]
        command = ["git", "-C", str(tmp_path), *mine, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(kd_bench, "__file__", str(tmp_path / "kd_bench" / "__init__.py"))
    assert record_module.code_version.__wrapped__() == {"commit": None, "dirty": False}
    for folder in ("kd_bench", "conf"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").touch()
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "README.md").touch()
    assert record_module.code_version.__wrapped__() == {"commit": commit, "dirty": False}
    (tmp_path / "conf" / "new.yaml").touch()
    assert record_module.code_version.__wrapped__() == {"commit": commit, "dirty": True}


def test_the_record_has_the_last_and_the_best_accuracy(runs):
    rows = [{"epoch": e, "test_accuracy": a} for e, a in ((1, 50.0), (2, 70.0), (3, 60.0))]
    assert record_module._accuracy(rows) == Accuracy(60.0, best=70.0, best_epoch=2, best_val=None)
    validation = (10.0, 20.0, 90.0)
    rows = [row | {"validation_accuracy": v} for row, v in zip(rows, validation, strict=True)]
    assert record_module._accuracy(rows).best_val == 60.0


@pytest.mark.slow
def test_the_reference_mode_is_another_job_with_the_same_loss(runs):
    repro, one = trained(job(runs, "method=st"))
    reference, other = trained(job(runs, "method=st", "speed=reference"))
    assert repro.folder != reference.folder
    losses = [first_epoch(folder)["ce"] for folder in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_another_number_of_threads_is_another_job_with_another_teacher(tmp_path):
    one, same, two = (
        job(tmp_path, "method=st", *more) for more in ([], ["threads=1"], ["threads=2"])
    )
    assert one.folder == same.folder
    assert two.folder != one.folder
    assert two.teacher.folder != one.teacher.folder
    assert two.teacher.config.threads == two.teacher.identity["threads"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("method", "views"), [("st", 1.0), ("bss", 1.25), ("sskd", 4.0)])
def test_the_record_has_the_views_per_step_that_are_derived_for_older_records(runs, method, views):
    record, folder = trained(job(runs, f"method={method}"))
    assert read_record(folder).views_per_step == views
    assert replace(record, views_per_step=None).budget == record.budget


@pytest.mark.slow
def test_a_validation_split_is_evaluated_and_not_trained_on(runs):
    record, folder = trained(job(runs, "method=baseline", "dataset.validation=10"))
    assert record.images == Images(train=30, test=24, validation=10)
    assert "validation_accuracy" in (folder / "history.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped.choices("method"))
def test_every_method_learns_on_real_digits(runs, name):
    digits = ("dataset=digits", "dataset.source.train=200", "recipe.schedule=constant")
    student = FOR_ANY_STUDENT.get(name, ())
    config = configured(*NETS, f"method={name}", *digits, *EQUAL_WIDTHS, *student)
    work = setup_of(resolve_job(replace(config, runs_dir=str(runs)), {}))
    loop._prepare(work)
    for phase in phases(work):
        runner = EpochRunner(work, phase)
        rows = [runner.run(epoch) for epoch in range(1, phase.epochs + 1)]
    first, last = rows  # of the main phase
    falling = {name for name in ("total", "ce") if last[name] < first[name]}
    # The total falls, except for CRD, whose term grows while its memory bank fills, and where the
    # weight of a large term still rises.
    assert falling >= ({"ce"} if name == "crd" or config.method.ramp_epochs else {"total"})


class TakenOver(NullReporter):
    """Lets another process take over the job and finish it after the first epoch."""

    FILES = ("checkpoint.pt", "history.csv", "timing.csv", "weights.pt", "result.json")

    def __init__(self, folder):
        self.folder = folder

    def epoch(self, row, timing):
        while not (self.folder / "timing.csv").exists():  # the last file of the first epoch
            time.sleep(0.01)
        (owner,) = (self.folder / "lock").iterdir()
        owner.rename(owner.with_name("elsewhere~1~2,42,7"))
        for name in self.FILES:
            (self.folder / name).write_text("theirs")


@pytest.mark.parametrize("epochs", [1, 2, 3])  # it is detected at the end, or before that
def test_a_process_that_lost_its_lock_changes_no_more_files(tmp_path, epochs):
    the_job = job(tmp_path, "method=baseline", f"recipe.epochs={epochs}")
    with pytest.raises(lock.Locked, match="process 42 on elsewhere, which took over"):
        run_with_teacher(the_job, TakenOver(the_job.path))
    assert {path.name for path in the_job.path.iterdir()} == {*TakenOver.FILES, "lock"}
    assert {(the_job.path / name).read_text() for name in TakenOver.FILES} == {"theirs"}
