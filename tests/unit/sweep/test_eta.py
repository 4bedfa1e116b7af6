"""How long jobs take: told from like jobs, scaled, and unknown where there are none."""

import pytest
from helpers.written_records import record

from kd_bench.jobs.job import Job
from kd_bench.jobs.status import DONE, PENDING, RUNNING, JobStatus, Progress
from kd_bench.sweep import eta
from kd_bench.sweep.eta import Throughput, ThroughputHistory, similarity_keys
from kd_bench.utils import formatting


def ran(*arguments, seconds, process=None, images=500, **settings):
    """A record, with the method's stage before training that those written by hand leave out."""
    done = record(*arguments, **settings)
    done["config"]["method"]["init"] = {"epochs": 0.0, "lr": 1.0, "weights": {}}
    done["images"] = {"train": images, "test": 1297, "validation": 0}
    return done | {"seconds": seconds, "seconds_of_process": process or seconds}


def frozen(*arguments, **settings):
    like = ran(*arguments, seconds=0, **settings)
    parts = {name: like[name] for name in ("config", "changed", "identity", "folder")}
    return Job(**parts, label="a job", after=None, asked=True)


def paces(*records):
    known = ThroughputHistory()
    for each in records:
        known.add_record(each)
    return known


NOT_BEGUN = JobStatus(PENDING)


def seconds(job, known, now=NOT_BEGUN, images=None):
    found = eta.remaining(job, now, known, images)
    return None if found is None else (found.seconds, found.is_rough)


def test_the_same_job_with_another_seed_takes_the_median_of_its_seeds():
    known = paces(*(ran("st", seed, seconds=s) for seed, s in enumerate((30.0, 20.0, 100.0))))
    assert seconds(frozen("st", 7), known) == (30, False)


def test_twice_the_epochs_take_twice_the_training_and_once_the_start():
    # 20 epochs in 10 s and 3 s to begin: half a second an epoch; 40 epochs: 3 + 20
    known = paces(ran("st", seconds=10.0, process=13.0))
    assert seconds(frozen("st", changed={"recipe.epochs": 40}), known) == (23, False)


def test_what_the_first_epochs_took_to_compile_is_taken_once():
    # 20 epochs in 26 s, of which 6 to compile, and 3 s to begin: one second an epoch
    known = paces(ran("st", seconds=26.0, process=29.0) | {"seconds_of_warm_up": 6.0})
    assert seconds(frozen("st", changed={"recipe.epochs": 40}), known) == (49, False)


def test_another_method_for_the_same_student_tells_roughly():
    known = paces(ran("at", seconds=10.0))
    assert seconds(frozen("st"), known) == (10, True)


def test_the_most_alike_has_the_say():
    known = paces(ran("at", seconds=10.0), ran("st", seconds=40.0))
    assert seconds(frozen("st", 1), known) == (40, False)


def test_the_same_student_on_more_of_the_images_takes_as_much_longer():
    known = paces(ran("st", seconds=10.0, images=500))
    more = frozen("st", changed={"dataset.source.train": 1500})
    assert seconds(more, known, images=1500) == (30, True)
    assert seconds(more, known) is None  # how many images it has is not known


@pytest.mark.parametrize("other", [{"dataset": "cifar10"}, {"student": "resnet110"}], ids=str)
def test_a_job_like_none_that_ran_is_unknown(other):
    assert seconds(frozen("st", **other), paces(ran("st", seconds=10.0)), images=500) is None


def test_a_job_that_runs_goes_by_its_own_pace():
    # 15 of 20 epochs are done, 2 s each: 5 x 2 s are left, whatever others took
    now = JobStatus(RUNNING, progress=Progress(15, 90.0, 250.0, 2.0))
    assert seconds(frozen("st"), paces(ran("st", seconds=99.0, process=120.0)), now) == (10, False)


def test_a_job_that_goes_on_from_a_checkpoint_has_to_start_again():
    now = JobStatus(PENDING, progress=Progress(15, 90.0, 250.0, 2.0))
    assert seconds(frozen("st"), paces(ran("st", seconds=99.0, process=102.0)), now) == (13, False)


def test_a_finished_job_takes_no_time():
    assert seconds(frozen("st"), ThroughputHistory(), JobStatus(DONE)) == (0, False)


def test_jobs_in_several_places_take_their_share_and_no_less_than_the_longest():
    assert eta.parallel_seconds([10, 20, 30], places=2) == 30
    assert eta.parallel_seconds([10, 20, 30], places=3) == 30
    assert eta.parallel_seconds([20, 20, 20, 20], places=2) == 40


def test_the_time_left_says_so_where_not_all_is_known():
    jobs = [(frozen("st", seed), JobStatus(PENDING)) for seed in range(4)]
    known = paces(ran("st", 9, seconds=60.0))
    assert eta.time_left_text(jobs, known, places=2) == "about 2 min 00 s left"
    jobs.append((frozen("st", dataset="cifar10"), JobStatus(PENDING)))
    assert eta.time_left_text(jobs, known, places=2) == "at least 2 min 00 s left"
    assert eta.time_left_text(jobs, ThroughputHistory(), places=2) == ""


def test_paces_are_those_of_the_latest_jobs_so_that_large_sweeps_do_not_slow_down():
    known, kinds = (
        ThroughputHistory(),
        similarity_keys("a/b/c/d/seed0", {"dataset": {}, "model": {}}, "r"),
    )
    for number in range(1000):
        known.add(kinds, Throughput(float(number)))
    # the last 25 are 975..999, the middle one 987
    assert known.of(kinds).per_epoch == 987


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
def test_durations_read_as_people_say_them(value, text):
    assert formatting.format_duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB")]
)
def test_sizes_read_as_people_say_them(value, text):
    assert formatting.format_bytes(value) == text
