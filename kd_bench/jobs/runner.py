"""Runs one job in this process: lock, training, record.

A killed job leaves its lock, the checkpoint of its last finished epoch, and no result. The next
process that runs it takes over the lock once the owner is known to be dead (`utils.lock`), and
resumes from the checkpoint (`training.loop`, `training.checkpoint`). The result is bit-identical,
because random streams are derived from seed, phase and epoch (`utils.seeds`). In a sweep, a killed
job counts as failed, and is retried only if `hydra.launcher.retries` is set (`sweep.retry`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from kd_bench.jobs.assemble import assemble_setup
from kd_bench.jobs.evaluation.scoring import student_logits, to_half
from kd_bench.jobs.job import Job
from kd_bench.jobs.record import code_version, make_record
from kd_bench.jobs.teacher import answer_test_images
from kd_bench.results.record import Record
from kd_bench.results.run_folder import (
    ERROR,
    RESULT,
    TENSORBOARD,
    TEST_LOGITS,
    WEIGHTS,
    wait_while_locked,
    write_error,
)
from kd_bench.training import checkpoint
from kd_bench.training.device import check_processes, choose_device, configure_process
from kd_bench.training.distributed.ranks import Ranks
from kd_bench.training.images.examples import first_views
from kd_bench.training.loop import Row, all_logits, train
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.utils.errors import DamagedError, UserError, error_text, failure_reason, warn
from kd_bench.utils.files import ensure_writable_dir
from kd_bench.utils.lock import Locked
from kd_bench.utils.locked_folder import LockedFolder


class Reporter(Protocol):
    """Shows the progress of a job."""

    def message(self, text: str) -> None:
        """Print a line about a job."""

    def start(self, label: str, epochs: int) -> None:
        """A job's training starts, or resumes."""

    def epoch(self, row: Row, timing: Row) -> None:
        """An epoch has ended, with these rows of history and timing."""

    def finish(self) -> None:
        """A job's training has ended, successfully or not."""


class NullReporter:
    """Reports nothing; for jobs of a sweep, which reports them itself."""

    def message(self, text: str) -> None:
        """Print nothing."""

    def start(self, label: str, epochs: int) -> None:
        """Show nothing."""

    def epoch(self, row: Row, timing: Row) -> None:
        """Show nothing."""

    def finish(self) -> None:
        """Show nothing."""


def run(job: Job, reporter: Reporter) -> tuple[Record, bool]:
    """Run a job whose teacher is finished, unless the job itself is finished.

    Returns:
        The record, and whether this call trained the job.

    Raises:
        Locked: another process is running this job, or took it over.
        UserError: its folder disappeared meanwhile.
    """
    if record := _record_of(job):
        return record, False
    ensure_writable_dir(job.path)
    if job.config.gpus_per_job > 1:
        return _run_in_processes(job, reporter)
    with _while_its_folder_exists(job), LockedFolder(job.path) as folder, _errors_to(folder):
        return _run_locked(job, reporter, folder, Ranks())


def _run_in_processes(job: Job, reporter: Reporter) -> tuple[Record, bool]:
    """Run a job in several processes, which share its batches.

    Raises:
        ProcessLost: one of them was killed; the next run resumes.
    """
    # Imported here because the import is slow, and jobs with a single process do not need it.
    from kd_bench.training.distributed.launch import launch

    check_processes(choose_device(job.config.device), job.config.gpus_per_job, job.config.threads)
    try:
        trained: bool = launch(job.config.gpus_per_job, _run_one_of, job, reporter)
    except Locked:
        raise
    except Exception as error:
        # The first process does not write it: its own error may only be the lost connection to
        # the process that failed.
        if job.path.is_dir():
            write_error(job.path, _error_file(error))
        raise
    record = job.read_record()
    assert record is not None  # the first process has written it
    return record, trained


def _run_one_of(ranks: Ranks, job: Job, reporter: Reporter) -> bool:
    """Run one of a job's processes; the first also locks and records. Return whether it trained."""
    if ranks.is_first:
        with _while_its_folder_exists(job), LockedFolder(job.path) as folder:
            return _run_locked(job, reporter, folder, ranks)[1]
    if _is_to_train(job, ranks):
        train(_setup_of(job, NullReporter(), ranks), None, lambda row, timing: None)
    return True


@contextmanager
def _while_its_folder_exists(job: Job) -> Iterator[None]:
    """Raise a `UserError` if the job's folder disappears."""
    try:
        yield
    except FileNotFoundError as error:
        if job.path.is_dir():
            raise
        text = f"{job.path} disappeared while its job ran; rerun the command"
        raise UserError(text) from error


def _run_locked(
    job: Job, reporter: Reporter, folder: LockedFolder, ranks: Ranks
) -> tuple[Record, bool]:
    if _is_to_train(job, ranks):
        _set_aside_damaged_record(job, folder, reporter)
        return _train_and_record(job, reporter, folder, ranks), True
    record = _record_of(job)
    assert record is not None  # another process finished it just before
    return record, False


def _is_to_train(job: Job, ranks: Ranks) -> bool:
    """Whether a job still has to be trained; all of its processes get the first one's answer."""
    return ranks.from_first(lambda: _record_of(job) is None)


@contextmanager
def _errors_to(folder: LockedFolder) -> Iterator[None]:
    """Write an error to error.txt, and raise it again."""
    try:
        yield
    except Locked:
        raise
    except Exception as error:
        try:
            folder.write(ERROR, f"{_error_file(error)}\n")
        except FileNotFoundError:
            pass  # `_while_its_folder_exists` reports that the folder is gone
        except OSError as unwritten:  # perhaps for the same reason, such as a full disk
            warn(f"cannot write {folder.path / ERROR}: {unwritten.strerror}")
        raise


def _error_file(error: Exception) -> str:
    """The text of error.txt: the reason in one line, then the text that is printed."""
    return f"{failure_reason(error)}\n\n{error_text(error)}"


def run_with_teacher(job: Job, reporter: Reporter) -> tuple[Record, bool]:
    """Run the jobs of the teachers, then `job` itself, in this process; see `run`.

    Waits if another process is training a teacher. A finished job needs no teacher.
    """
    if record := _record_of(job):
        return record, False
    for teacher in job.teachers:
        while not _has_run(teacher, reporter):
            wait_while_locked(teacher.path, RESULT)
    return run(job, reporter)


def _has_run(teacher: Job, reporter: Reporter) -> bool:
    """Run a teacher's job; return False if another process is running it."""
    try:
        run_with_teacher(teacher, reporter)
    except Locked as owner:
        reporter.message(f"waiting for {teacher.label}, trained by {owner}")
        return False
    return True


def _record_of(job: Job) -> Record | None:
    """The job's record; None if it has to be run: it is not finished, or its record is damaged.

    Raises:
        UserError: another version of kd-bench wrote the record.
    """
    try:
        return job.read_record()
    except DamagedError:
        return None


def _set_aside_damaged_record(job: Job, folder: LockedFolder, reporter: Reporter) -> None:
    """Rename a damaged record; the job is then trained from scratch."""
    if (job.path / RESULT).exists():
        damaged = f"{RESULT}.damaged"
        folder.rename(RESULT, damaged)
        reporter.message(f"{job.label}: damaged record kept as {job.path / damaged}; running again")


def _setup_of(job: Job, reporter: Reporter, ranks: Ranks | None) -> TrainingSetup:
    """Set up this process for a job and build the job's training setup."""
    device = choose_device(job.config.device)
    configure_process(job.config.threads)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # this process may have trained the teacher
    return assemble_setup(job, device, reporter.message, ranks)


def _train_and_record(
    job: Job, reporter: Reporter, folder: LockedFolder, ranks: Ranks | None
) -> Record:
    folder.remove(ERROR)
    code_version()  # cached now, because files may be edited during training
    started = time.perf_counter()
    setup = _setup_of(job, reporter, ranks)
    teacher_logits = answer_test_images(job, setup)
    add_events, close_events = _event_writer(job, setup, folder, reporter)

    def report(row: Row, timing: Row) -> None:
        folder.check()
        reporter.epoch(row, timing)
        add_events(row | {"images_per_second": timing["images_per_second"]})

    try:
        reporter.start(job.label, sum(phase.epochs for phase in phases(setup)))
        progress = train(setup, folder, report)
    finally:
        reporter.finish()
    logits = student_logits(setup.student, setup.data)
    if setup.teacher is not None and setup.teacher.learns:
        teacher_logits = all_logits(setup.teacher.network, setup.data, setup.data.test)
    stored_logits = checkpoint.to_bytes(to_half(logits.test))
    # On the CPU, so that they can be loaded on machines without a GPU.
    weights = checkpoint.to_bytes(checkpoint.on_cpu(setup.student.net.state_dict()))
    record = make_record(
        job,
        setup,
        progress,
        student_logits=logits,
        teacher_logits=teacher_logits,
        weights=weights,
        stored_logits=stored_logits,
        seconds_of_process=time.perf_counter() - started,
    )
    close_events(record, len(progress.history))
    folder.write(WEIGHTS, weights)
    folder.write(TEST_LOGITS, stored_logits)
    folder.write_json(RESULT, record.to_json())  # last: it marks the job as complete
    checkpoint.remove(folder)
    return record


def _event_writer(
    job: Job, setup: TrainingSetup, folder: LockedFolder, reporter: Reporter
) -> tuple[Callable[[Row], None], Callable[[Record, int], None]]:
    """Functions that add an epoch to the TensorBoard events and close them; no-ops if disabled."""
    if not job.config.tensorboard:
        return lambda row: None, lambda record, epochs: None
    # Imported here because it takes a third of a second, and other jobs do not need it.
    from kd_bench.jobs.tensorboard import EXAMPLES, TensorBoardWriter, link_events

    folder.check()
    writer = TensorBoardWriter(folder.path / TENSORBOARD)
    writer.add_images(first_views(setup, EXAMPLES))
    try:
        link_events(job)
    except OSError as error:  # a file system without links; the job's folder has the events
        reporter.message(f"{job.label}: no readable name in TensorBoard: {error}")
    return writer.add, writer.close
