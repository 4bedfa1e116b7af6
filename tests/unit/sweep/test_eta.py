"""The time a job will take is estimated from similar finished jobs, and unknown without any."""

import pytest
from helpers.written_records import record

from kd_bench.jobs.job import Job, MethodTraits
from kd_bench.jobs.status import DONE, PENDING, RUNNING, JobProgress, JobStatus
from kd_bench.sweep import eta
from kd_bench.sweep.eta import Throughput, ThroughputHistory

NOT_STARTED = JobStatus(PENDING)


def pending(*arguments, **settings):
    """The job whose record `helpers.written_records.record` would make."""
    same = record(*arguments, **settings)
    return Job(same.config, same.changed, same.identity, same.folder, "a job", MethodTraits())


def history_of(*records):
    history = ThroughputHistory()
    for each in records:
        history.add_record(each)
    return history


def estimate(job, history, status=NOT_STARTED):
    """The estimated seconds, and whether the estimate is rough."""
    found = eta.remaining(job, status, history)
    return None if found is None else (found.seconds, found.is_rough)


def test_job_takes_the_median_time_of_its_other_seeds():
    history = history_of(*(record("st", i, seconds=s) for i, s in enumerate((30.0, 20.0, 100.0))))
    assert estimate(pending("st", 7), history) == (30, False)


def test_median_of_an_even_number_of_jobs_is_the_mean_of_the_middle_two():
    history = history_of(record("st", 0, seconds=20.0), record("st", 1, seconds=30.0))
    assert estimate(pending("st", 7), history) == (25, False)


def test_twice_the_epochs_take_twice_the_training_time_but_one_start():
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
def test_another_method_or_recipe_gives_a_rough_estimate(other):
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
def test_other_images_students_or_execution_give_no_estimate(other):
    assert estimate(pending("st", **other), history_of(record("st", seconds=10.0))) is None


def test_running_job_is_estimated_from_its_own_throughput():
    # 15 of 20 epochs are done, 2 s each: 5 x 2 s are left, however long other seeds took
    status = JobStatus(RUNNING, progress=JobProgress(15, 90.0, 250.0, 2.0))
    history = history_of(record("st", seconds=99.0, seconds_of_process=120.0))
    assert estimate(pending("st"), history, status) == (10, False)


def test_job_that_resumes_from_a_checkpoint_needs_the_time_to_start_again():
    # 5 x 2 s, and 3 s to start
    status = JobStatus(PENDING, progress=JobProgress(15, 90.0, 250.0, 2.0))
    history = history_of(record("st", seconds=99.0, seconds_of_process=102.0))
    assert estimate(pending("st"), history, status) == (13, False)


def test_finished_job_takes_no_time():
    assert estimate(pending("st"), ThroughputHistory(), JobStatus(DONE)) == (0, False)


def test_several_slots_divide_the_time_but_not_below_the_longest_job():
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


def test_only_the_latest_25_jobs_count():
    history, job = ThroughputHistory(), pending("st")
    for number in range(1000):
        history.add(job.folder, job.identity, Throughput(float(number)))
    # the last 25 are 975..999, the middle one 987
    assert history.expected(job.folder, job.identity).per_epoch == 987
