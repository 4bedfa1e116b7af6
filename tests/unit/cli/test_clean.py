"""kd-bench clean: lists files that finished jobs no longer need, and deletes them with --yes."""

import errno
import os
from dataclasses import replace

import pytest
from helpers.jobs import TINY, job

from kd_bench.jobs.job import write_jobs
from kd_bench.results.run_folder import read_record
from kd_bench.utils import lock
from kd_bench.utils.lock import Lock


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def litter(folder):
    """Write the files that killed processes and finished jobs leave in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint.pt").write_bytes(bytes(3000))
    (folder / "checkpoint_before.pt.damaged").write_bytes(bytes(500))
    (folder / "console.log").write_text("nothing to see\n")
    (folder / ".history.csv.77.part").write_text("epoch,")
    os.utime(folder / ".history.csv.77.part", (0, 0))
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.out").write_bytes(bytes(100))


KEPT = {
    "result.json",
    "history.csv",
    "timing.csv",
    "weights.pt",
    "test_logits.pt",
    "tensorboard/events.out",
}


def test_nothing_is_deleted_without_yes(kd_bench, finished, tmp_path):
    litter(finished[0])
    before = files(tmp_path)
    code, printed = kd_bench("clean")
    assert code == 0
    assert files(tmp_path) == before
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert lines == [
        "6 B partially written files (1 file)",
        "500 B files set aside as damaged (1 file)",
        "3.0 kB checkpoints of finished jobs (1 file)",
        "15 B console output of finished jobs (1 file)",
        "3.5 kB in total (4 files)",
        "nothing was deleted; add --yes to delete these files",
    ]


def test_with_yes_unneeded_files_are_deleted_and_all_others_are_kept(kd_bench, finished):
    student, teacher = finished
    before = files(teacher)
    litter(student)
    code, printed = kd_bench("clean", "--yes")
    assert code == 0
    assert printed.endswith("deleted 4 files, 3.5 kB\n")
    assert files(student) == KEPT
    assert files(teacher) == before
    assert kd_bench("clean", "--yes") == (0, "nothing to clean\n")


def test_list_prints_the_files(kd_bench, finished):
    litter(finished[0])
    _, printed = kd_bench("clean", "--list")
    assert f"3.0 kB  {finished[0].relative_to(finished[0].parents[5])}/checkpoint.pt" in printed


def test_an_unfinished_job_keeps_the_files_it_resumes_from(kd_bench, finished):
    unfinished = finished[0].with_name("seed1")
    litter(unfinished)
    kd_bench("clean", "--yes", "--weights", "--tensorboard")
    assert files(unfinished) == {"checkpoint.pt", "console.log", "tensorboard/events.out"}


def test_the_folder_of_a_running_job_is_not_changed(kd_bench, finished):
    student, _ = finished
    litter(student)
    with Lock(student):
        before = files(student)
        code, printed = kd_bench("clean", "--yes")
        assert files(student) == before
    assert code == 0
    assert printed == "nothing to clean\nskipped: 1 folder of running jobs\n"


def test_a_file_that_is_being_written_is_kept(kd_bench, finished):
    part = finished[0] / ".result.json.77.part"
    part.touch()
    kd_bench("clean", "--yes")
    assert part.exists()


def test_weights_deletes_the_weights_of_students_but_not_of_teachers(kd_bench, finished):
    student, teacher = finished
    _, printed = kd_bench("clean", "--yes", "--weights")
    assert "weights of students (1 file)" in printed
    assert not (student / "weights.pt").exists()
    assert (teacher / "weights.pt").exists()
    assert (student / "result.json").exists()


def test_logits_deletes_stored_logits_but_not_their_metrics(kd_bench, finished):
    _, printed = kd_bench("clean", "--yes", "--logits")
    assert "logits for test images (2 files)" in printed
    assert not any((folder / "test_logits.pt").exists() for folder in finished)
    assert read_record(finished[0]).metrics is not None


def test_weights_of_a_run_that_a_sweep_lists_as_a_teacher_are_kept(kd_bench, finished, tmp_path):
    student, _ = finished
    one = job(tmp_path / "runs", "method=baseline", "seed=5")
    teacher = replace(one, folder=student.relative_to(tmp_path / "runs").as_posix())
    write_jobs([replace(one, teachers=(teacher,))], "mine")
    kd_bench("clean", "--yes", "--weights")
    assert (student / "weights.pt").exists()


@pytest.mark.slow
def test_jobs_still_run_after_deleting_everything_that_clean_may_delete(kd_bench, finished):
    kd_bench("clean", "--yes", "--weights", "--tensorboard")
    code, printed = kd_bench(*TINY, "method=st", "seed=1")
    assert code == 0
    assert ": done: " in printed
    code, printed = kd_bench(*TINY, "method=st")
    assert code == 0
    assert "already done, nothing to train" in printed


def test_tensorboard_deletes_event_files(kd_bench, finished):
    student, _ = finished
    litter(student)
    kd_bench("clean", "--yes", "--tensorboard")
    assert files(student) == KEPT - {"tensorboard/events.out"}
    assert not (student / "tensorboard").exists()


def test_links_to_event_files_are_deleted_with_them(kd_bench, finished, tmp_path):
    student, _ = finished
    litter(student)
    column = tmp_path / "runs" / "tensorboard" / "digits"
    column.mkdir(parents=True)
    (column / "st").symlink_to(os.path.relpath(student / "tensorboard", column))
    (column / "mine").symlink_to(tmp_path / "nowhere")
    _, printed = kd_bench("clean", "--tensorboard")
    assert "links to deleted event files (1 file)" in printed
    assert {path.name for path in column.iterdir()} == {"st", "mine"}
    kd_bench("clean", "--yes", "--tensorboard")
    assert [path.name for path in column.iterdir()] == ["mine"]
    (column / "mine").unlink()
    kd_bench("clean", "--yes", "--tensorboard")
    assert not column.exists()


def test_half_written_files_of_a_cache_are_deleted(kd_bench, finished, tmp_path):
    cache = tmp_path / "runs" / ".tables" / "0a1b2c3d"
    cache.mkdir(parents=True)
    for name in (".table.json.77.part", "rows.f32.part"):  # a job can resume the second one
        (cache / name).write_bytes(bytes(10))
        os.utime(cache / name, (0, 0))
    kd_bench("clean", "--yes")
    assert files(cache) == {"rows.f32.part"}
    for name in ("rows.f32", "table.json"):
        (cache / name).write_bytes(bytes(10))  # another process filled it
    kd_bench("clean", "--yes")
    assert files(cache) == {"rows.f32", "table.json"}


@pytest.mark.slow
def test_tables_deletes_teacher_caches_which_are_filled_again(kd_bench, finished, tmp_path):
    table = (*TINY, "method=st", "teacher.source=table")
    assert kd_bench(*table, "seed=1")[0] == 0
    tables = tmp_path / "runs" / ".tables"
    assert {path.split("/")[1] for path in files(tables)} == {"rows.f32", "table.json"}
    assert "caches of teachers" not in kd_bench("clean")[1]
    with Lock(finished[0]):
        _, printed = kd_bench("clean", "--tables", "--yes")
        assert "skipped: 1 folder of running jobs, and teacher caches\n" in printed
    assert files(tables)
    _, printed = kd_bench("clean", "--tables", "--yes")
    assert "caches of teachers' outputs (2 files)" in printed
    assert not list(tables.iterdir())
    code, printed = kd_bench(*table, "seed=2")
    assert code == 0
    assert "filling the teacher's cache" in printed


def test_links_are_not_followed(kd_bench, finished, tmp_path):
    student, _ = finished
    outside = tmp_path / "outside"
    litter(outside)
    (outside / "table" / "deep").mkdir(parents=True)
    (outside / "table" / "rows.f32").write_bytes(bytes(100))
    (student / "tensorboard").symlink_to(outside / "tensorboard")
    (student / "checkpoint.pt").symlink_to(outside / "checkpoint.pt")
    (student / "checkpoint_before.pt").symlink_to(outside / "gone")
    (student / ".history.csv.7.part").symlink_to(outside / ".history.csv.77.part")
    (student.with_name("seed7")).symlink_to(outside)
    (tmp_path / "runs" / ".tables").mkdir()
    (tmp_path / "runs" / ".tables" / "one").symlink_to(outside / "table")
    (tmp_path / "runs" / ".sweeps").symlink_to(outside)
    before = files(outside)
    clean = ("clean", "--yes", "--tensorboard", "--tables", "--weights")
    assert "deleted 1 file," in kd_bench(*clean)[1]  # the student's weights
    (tmp_path / "runs" / ".tables" / "one").unlink()
    (tmp_path / "runs" / ".tables").rmdir()
    (tmp_path / "runs" / ".tables").symlink_to(outside)
    assert kd_bench(*clean)[1] == "nothing to clean\n"
    assert files(outside) == before
    assert os.readlink(student / "checkpoint_before.pt") == str(outside / "gone")


def test_locks_of_killed_processes_are_deleted(kd_bench, finished):
    student, teacher = finished
    dead = f"{lock._host()},4194304,1"
    (student / "lock").mkdir()
    for path in (student / "lock" / dead, teacher / f".now.{dead}"):
        path.touch()
    (teacher / ".0123abcd.writable").touch()  # of an earlier version
    os.utime(teacher / ".0123abcd.writable", (0, 0))
    _, printed = kd_bench("clean")
    assert "0 B  locks of killed processes (2 files)" in printed
    assert "0 B  partially written files (1 file)" in printed
    assert (student / "lock" / dead).exists()
    assert kd_bench("clean", "--yes")[1].endswith("deleted 3 files, 0 B\n")
    assert not [path for path in (*student.iterdir(), *teacher.iterdir()) if "," in path.name]
    assert not (student / "lock").exists()


def test_a_damaged_file_is_reported_and_the_rest_is_cleaned(kd_bench, finished, tmp_path):
    student, teacher = finished
    for folder in finished:
        litter(folder)
    (student / "result.json").write_bytes(bytes(300))
    (tmp_path / "runs" / ".sweeps").mkdir()
    (tmp_path / "runs" / ".sweeps" / "mine.jsonl").write_text('{"config"')
    (teacher.with_name("seed8")).mkdir()
    (teacher.with_name("seed8") / "lock").write_text("mine")
    code, printed = kd_bench("clean", "--yes", "--weights")
    assert code == 0
    assert "kd-bench: --weights is ignored: runs/.sweeps/mine.jsonl is damaged, or was" in printed
    assert "/seed8/lock is a link or a file, but a lock is a folder" in printed
    assert f"left out: runs/{student.relative_to(tmp_path / 'runs')}/result.json is no" in printed
    assert files(teacher) == KEPT
    assert files(student) == KEPT | {"checkpoint.pt", "console.log"}  # of an unfinished job


def test_a_full_disk_can_be_cleaned(kd_bench, finished, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    litter(finished[0])
    monkeypatch.setattr(lock.Path, "mkdir", full)
    assert kd_bench("clean", "--yes")[1].endswith("deleted 4 files, 3.5 kB\n")
    assert files(finished[0]) == KEPT


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["runs_dir=none"], "there is no folder none; choose the runs with runs_dir=DIR"),
        (["--force"], "unrecognized arguments: --force; usage: kd-bench clean [-h] [--yes]"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_in_one_line(kd_bench, typed, answer):
    code, printed = kd_bench("clean", *typed)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
