"""How long jobs take: estimated from similar jobs that finished, and unknown without any."""

import pytest
from helpers.written_records import record

from kd_bench.jobs.job import Job, MethodTraits
from kd_bench.jobs.status import DONE, PENDING, RUNNING, JobProgress, JobStatus
from kd_bench.sweep import eta
from kd_bench.sweep.eta import Throughput, ThroughputHistory
from kd_bench.utils.text import formatting

NOT_STARTED = JobStatus(PENDING)


def pending(*arguments, **settings):
    """The job of a record that `helpers.written_records.record` would make."""
    same = record(*arguments, **settings)
    return Job(same.config, same.changed, same.identity, same.folder, "a job", MethodTraits())


def history_of(*records):
    history = ThroughputHistory()
    for each in records:
        history.add_record(each)
    return history


def estimate(job, history, status=NOT_STARTED):
    """Seconds, and whether they are rough."""
    found = eta.remaining(job, status, history)
    return None if found is None else (found.seconds, found.is_rough)


def test_job_takes_the_median_time_of_its_other_seeds():
    history = history_of(*(record("st", i, seconds=s) for i, s in enumerate((30.0, 20.0, 100.0))))
    assert estimate(pending("st", 7), history) == (30, False)


def test_median_of_an_even_number_of_jobs_is_between_the_middle_two():
    history = history_of(record("st", 0, seconds=20.0), record("st", 1, seconds=30.0))
    assert estimate(pending("st", 7), history) == (25, False)


def test_twice_the_epochs_take_twice_the_training_and_one_start():
    # 20 epochs in 10 s and 3 s to start: half a second per epoch; 40 epochs: 3 + 20
    history = history_of(record("st", seconds=10.0, seconds_of_process=13.0))
    seconds, _ = estimate(pending("st", changed={"recipe.epochs": 40}), history)
    assert seconds == 23


def test_time_to_compile_is_counted_once():
    # 20 epochs in 26 s, 6 of them to compile, and 3 s to start: one second per epoch
    done = record("st", seconds=26.0, seconds_of_process=29.0, seconds_of_warm_up=6.0)
    seconds, _ = estimate(pending("st", changed={"recipe.epochs": 40}), history_of(done))
    assert seconds == 49


def test_time_of_the_whole_process_replaces_that_of_the_record():
    history = ThroughputHistory()
    history.add_record(record("st", seconds=10.0, seconds_of_process=11.0), whole=14.0)
    assert estimate(pending("st", 1), history) == (14, False)


@pytest.mark.parametrize("other", [{"method": "at"}, {"recipe": "short"}], ids=str)
def test_another_method_or_recipe_for_the_same_student_and_images_gives_a_rough_estimate(other):
    done = record(**{"method": "st", **other}, seconds=10.0)
    assert estimate(pending("st"), history_of(done)) == (10, True)


def test_other_seeds_of_the_job_count_more_than_other_methods():
    history = history_of(record("st", seconds=40.0), record("at", seconds=10.0))
    assert estimate(pending("st", 1), history) == (40, False)


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "cifar10"},
        {"student": "resnet110"},
        {"speed": "reference"},
        {"changed": {"dataset.source.train": 1500}},
        {"changed": {"model.net.width": 64}},
        {"changed": {"compile": True}},
        {"changed": {"precision": "bf16"}},
    ],
    ids=str,
)
def test_job_with_other_images_another_student_or_other_execution_is_unknown(other):
    assert estimate(pending("st", **other), history_of(record("st", seconds=10.0))) is None


def test_running_job_is_estimated_from_its_own_throughput():
    # 15 of 20 epochs are done, 2 s each: 5 x 2 s are left, however long other seeds took
    status = JobStatus(RUNNING, progress=JobProgress(15, 90.0, 250.0, 2.0))
    history = history_of(record("st", seconds=99.0, seconds_of_process=120.0))
    assert estimate(pending("st"), history, status) == (10, False)


def test_job_that_resumes_from_a_checkpoint_has_to_start_again():
    # 5 x 2 s, and 3 s to start
    status = JobStatus(PENDING, progress=JobProgress(15, 90.0, 250.0, 2.0))
    history = history_of(record("st", seconds=99.0, seconds_of_process=102.0))
    assert estimate(pending("st"), history, status) == (13, False)


def test_finished_job_takes_no_time():
    assert estimate(pending("st"), ThroughputHistory(), JobStatus(DONE)) == (0, False)


def test_several_slots_share_the_time_but_not_that_of_the_longest_job():
    assert eta.parallel_seconds([10, 20, 30], slots=2) == 30
    assert eta.parallel_seconds([10, 20, 30], slots=3) == 30
    assert eta.parallel_seconds([20, 20, 20, 20], slots=2) == 40


def test_time_left_is_a_lower_bound_if_some_jobs_are_unknown():
    jobs = [(pending("st", seed), NOT_STARTED) for seed in range(4)]
    history = history_of(record("st", 9, seconds=60.0))
    assert eta.time_left_text(jobs, history, slots=2) == "about 2 min 00 s left"
    jobs.append((pending("st", dataset="cifar10"), NOT_STARTED))
    assert eta.time_left_text(jobs, history, slots=2) == "at least 2 min 00 s left"
    assert eta.time_left_text(jobs, ThroughputHistory(), slots=2) == ""


def test_only_the_latest_jobs_count_so_that_large_sweeps_do_not_slow_down():
    history, job = ThroughputHistory(), pending("st")
    for number in range(1000):
        history.add(job.folder, job.identity, Throughput(float(number)))
    # the last 25 are 975..999, the middle one 987
    assert history.expected(job.folder, job.identity).per_epoch == 987


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.3, "under 1 s"),
        (2.6, "3 s"),
        (59.7, "1 min 00 s"),
        (130, "2 min 10 s"),
        (4020, "1 h 07 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_durations_are_readable(value, text):
    assert formatting.format_duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB")]
)
def test_sizes_are_readable(value, text):
    assert formatting.format_bytes(value) == text
