"""kd-bench plan: the jobs to do and their time and disk space; nothing is trained or written."""

import os
import shutil

import pytest
from helpers.jobs import FOUR_CLASSES, TINY, config, job, rewrite_record
from helpers.written_records import record, seeds, write

from kd_bench.jobs import instantiate
from kd_bench.jobs.status import PENDING, JobStatus
from kd_bench.sweep import dry_run, prepare
from kd_bench.utils.lock import Lock


def contents(folder):
    """All files below a folder with their times and contents."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


def lines_of(printed):
    return dict(line.split(": ", 1) for line in printed.splitlines())


@pytest.mark.slow
def test_all_jobs_of_a_new_sweep_are_to_do_and_the_time_is_unknown(kd_bench, tmp_path):
    code, printed = kd_bench("plan", "-m", *TINY, "method=baseline,st", "seed=0,1")
    told = lines_of(printed)
    assert code == 0
    assert (
        told["synthetic resnet20 baseline seed 0 (teacher, recipe=quickstart)"]
        == "to do, time unknown"
    )
    assert told["synthetic resnet20-resnet8_half st seed 1"] == "to do, time unknown"
    assert told["5 jobs"] == "0 done, 0 running, 5 to do"
    assert told["time"] == "unknown; no similar job has finished in runs yet"
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_one_job_is_planned_with_its_teacher(kd_bench, tmp_path):
    code, printed = kd_bench("plan", *TINY, "method=st")
    assert (code, lines_of(printed)["2 jobs"]) == (0, "0 done, 0 running, 2 to do")
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_done_running_failed_and_resumable_jobs_are_listed_and_nothing_is_written(
    kd_bench, finished, tmp_path
):
    student, _ = finished
    runs, failed, begun = (student.with_name(f"seed{k}") for k in (1, 2, 3))
    for folder in (runs, failed, begun):
        folder.mkdir()
        (folder / "history.csv").write_text("epoch,test_accuracy\n1,50.0\n")
        (folder / "timing.csv").write_text("epoch,train,evaluation,images_per_second\n1,4,1,10.0\n")
    (failed / "error.txt").write_text("RuntimeError: as it was told to\n\nTraceback ...")
    (begun / "checkpoint.pt").touch()
    with Lock(runs):
        before = contents(tmp_path)
        code, printed = kd_bench("plan", "-m", *TINY, "method=st", "seed=0,1,2,3")
        assert contents(tmp_path) == before
    told = lines_of(printed.replace("resnet20-resnet8_half st ", ""))
    assert code == 0
    assert told["synthetic seed 0"].startswith("done: ")
    assert f"running, process {os.getpid()} on " in told["synthetic seed 1"]
    # one of two epochs is done and took 5 s
    assert told["synthetic seed 1"].endswith("epoch 1/2 50.00 % 10 images/s, 5 s left")
    # without a checkpoint it starts again
    assert told["synthetic seed 2"].startswith("to do, about ")
    assert told["synthetic seed 2"].endswith("; failed before: RuntimeError: as it was told to")
    assert told["synthetic seed 3"].startswith("to do from epoch 2 of 2, about 5 s")
    assert told["5 jobs"] == "2 done, 1 running, 2 to do (1 failed before)"


@pytest.mark.slow
def test_time_and_disk_space_are_estimated_from_similar_jobs(kd_bench, finished):
    student, _ = finished
    rewrite_record(student, seconds=10.0, seconds_of_process=13.0, seconds_of_warm_up=0.0)
    (student / "weights.pt").write_bytes(bytes(2_000_000))
    _, printed = kd_bench("plan", "-m", *TINY, "method=st", "seed=1,2,3", "recipe.epochs=4")
    told = lines_of(printed)
    # 2 epochs took 10 s, and 3 s to start; 4 take 20 s + 3 s; three such jobs 69 s
    assert told["synthetic resnet20-resnet8_half st seed 1"] == "to do, about 23 s"
    assert told["time"].startswith("about 1 min 09 s of training")
    assert told["disk"] == "about 6.0 MB"


@pytest.mark.slow
def test_times_on_another_kind_of_device_are_not_used(kd_bench, finished):
    for folder in finished:
        rewrite_record(folder, device="cuda")
    _, printed = kd_bench("plan", *TINY, "method=st", "seed=1", "device=cpu")
    assert lines_of(printed)["time"].startswith("unknown")


@pytest.mark.slow
def test_compiling_is_advised_if_similar_jobs_ran_with_and_without_it(kd_bench, finished, tmp_path):
    student, _ = finished
    typed = ("plan", "-m", *TINY, "method=st", "seed=0,1,2,3")
    rewrite_record(student, seconds=10.0, seconds_of_process=10.0, seconds_of_warm_up=0.0)
    assert "compile=true" not in kd_bench(*typed)[1]
    compiled = job(tmp_path / "runs", "method=st", "compile=true")
    other = compiled.path
    shutil.copytree(student, other)
    plain = compiled.to_json()
    rewrite_record(other, **{name: plain[name] for name in ("config", "identity", "folder")})
    # Two epochs took 12 s, 8 of them to compile: 2 s per epoch instead of 5 s.
    rewrite_record(other, seconds=12.0, seconds_of_process=12.0, seconds_of_warm_up=8.0)
    told = lines_of(kd_bench(*typed)[1])
    expected = "3 jobs in about 36 s with it, about 30 s without"
    assert told["compile=true does not pay off"] == expected
    told = lines_of(kd_bench(*typed, "recipe.epochs=20")[1])
    assert told["compile=true pays off"] == (
        "4 jobs in about 3 min 12 s with it, about 6 min 40 s without"
    )


@pytest.mark.slow
def test_a_sweep_for_a_cluster_is_planned_and_not_submitted(kd_bench, finished, tmp_path):
    before = contents(tmp_path)
    there = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "+hydra.launcher.qos=night")
    code, printed = kd_bench("plan", "-m", *TINY, "method=st", "seed=0,1", *there)
    told = lines_of(printed)
    assert code == 0
    assert told["3 jobs"] == "2 done, 0 running, 1 to do"
    assert "divided by as many jobs as the scheduler runs at once" in told["time"]
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_slots_of_this_machine_share_the_work(tmp_path):
    jobs = prepare.prepare_jobs(
        [(config(tmp_path, "method=baseline", f"seed={k}"), {}) for k in range(4)]
    )
    now = [
        dry_run.PlannedJob(j, JobStatus(PENDING), dry_run.Estimate(90, False), None) for j in jobs
    ]
    assert (
        dry_run._time_line(now, 2)
        == "time: about 6 min 00 s of training, about 3 min 00 s in 2 slots"
    )
    assert dry_run._time_line(now, 1) == "time: about 6 min 00 s of training"


def test_without_a_similar_job_only_the_weights_are_counted(tmp_path):
    (one,) = prepare.prepare_jobs([(config(tmp_path, "method=baseline"), {})])
    net = instantiate.build_network(one.config.model, FOUR_CLASSES).net
    # 4 bytes per parameter; per batch norm, 2 more numbers per channel and a counter of 8 bytes
    norms = [m for m in net.modules() if hasattr(m, "running_mean")]
    numbers = sum(p.numel() for p in net.parameters()) + sum(2 * m.num_features for m in norms)
    assert dry_run.weights_size(one) == 4 * numbers + 8 * len(norms)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["-m", "method=st,kd"], "unknown method 'kd'; choose from "),
        (["sweep=quick"], "unknown sweep 'quick'; choose from "),
        (["method=st,at"], "add -m to run a job with each"),
        (["method=at", "method.losses.at.stages=[stage9]"], "unknown stage 'stage9' of resnet8"),
        (["sede=1"], "sede"),
        (
            ["-m", "hydra/launcher=slurm", "hydra.launcher.partitoin=gpu"],
            "unknown key 'partitoin' in hydra.launcher; choose from on_error, retries,",
        ),
        (
            ["-m", "hydra/launcher=slurm", "hydra.launcher.jobs_at_once=0"],
            "must be 1 or more, got 0",
        ),
        (["hydra/launcher=slrum"], "unknown hydra/launcher 'slrum'; choose from local, ray, slurm"),
    ],
    ids=str,
)
def test_a_mistake_is_reported_as_without_plan(kd_bench, tmp_path, typed, answer):
    code, printed = kd_bench("plan", *typed)
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
    assert contents(tmp_path) == {}


def test_help_shows_an_example(kd_bench):
    code, printed = kd_bench("plan", "--help")
    assert code == 0
    assert "kd-bench plan sweep=quickstart" in printed


VIEWS = ("dataset.pad=1", "dataset.flip=true")  # 9 crops times 2 flips: 18


@pytest.mark.slow
def test_the_teacher_source_with_fewer_forward_passes_is_advised(kd_bench):
    command = ("plan", "-m", *TINY, *VIEWS, "method=baseline,st,logits,at", "seed=0,1")
    code, printed = kd_bench(*command)
    assert code == 0
    # 4 jobs of 2 epochs of 40 images; 18 views of 40 images, 4 logits of 4 bytes each. The
    # baseline needs no teacher, and a cache cannot hold the features that `at` reads.
    assert [line for line in printed.splitlines() if line.startswith("teacher ")] == [
        "teacher resnet20 of st, logits: 4 jobs would pass about 320 images through it online, or"
        " about 720 once to fill a cache of 11.5 kB; teacher.source=online is cheaper"
    ]
    code, printed = kd_bench(*command, "recipe.epochs=6")
    assert "960 images through it online" in printed
    assert "teacher.source=table would be cheaper" in printed


TUNE = ("tune", *TINY, "method=baseline,st", "trials=2", "studies=1")


@pytest.mark.slow
def test_a_tuning_is_planned_with_its_trials_and_both_runs_of_each_study(kd_bench, tmp_path):
    code, printed = kd_bench("plan", *TUNE)
    told = lines_of(printed)
    assert code == 0
    # of each method two trials, the published and the chosen values; and two teachers, since that
    # of the trials does without the validation images
    assert told["10 jobs"] == "0 done, 0 running, 10 to do"
    assert list(told)[2:10] == [
        "synthetic resnet8_half baseline seed 0 (trial 1)",
        "synthetic resnet8_half baseline seed 0 (trial 2)",
        "synthetic resnet20-resnet8_half st seed 0 (trial 1)",
        "synthetic resnet20-resnet8_half st seed 0 (trial 2)",
        "synthetic resnet8_half baseline seed 0",
        "synthetic resnet20-resnet8_half st seed 0",
        "synthetic resnet8_half baseline seed 0 (tuned)",
        "synthetic resnet20-resnet8_half st seed 0 (tuned)",
    ]
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_trials_take_roughly_as_long_as_runs_with_all_images(kd_bench, finished):
    student, _ = finished
    rewrite_record(student, seconds=10.0, seconds_of_process=13.0, seconds_of_warm_up=0.0)
    _, printed = kd_bench("plan", "tune", *TINY, "method=st", "trials=2", "studies=1")
    lines = [line for line in printed.splitlines() if line.startswith("synthetic resnet20-")]
    trials, published, tuned = lines[:2], lines[2], lines[3]
    assert all(line.endswith(": to do, roughly 13 s") for line in trials)
    assert published.startswith("synthetic resnet20-resnet8_half st seed 0: done: ")
    assert tuned.endswith(" (tuned): to do, about 13 s")


@pytest.mark.slow
def test_a_chosen_cache_that_costs_more_is_reported(kd_bench):
    code, printed = kd_bench("plan", *TINY, *VIEWS, "method=st", "teacher.source=table")
    assert code == 0
    assert "teacher.source=online would be cheaper" in printed
    assert "and 11.5 kB of teacher caches unless they exist; only the weights of 2" in printed


# Seeds


@pytest.mark.slow
def test_the_seeds_to_detect_a_difference_follow_from_the_standard_deviation(kd_bench, tmp_path):
    # SD 0.25 and 0.5 in two cells each; 12 seeds at 0.25 (checked with scipy.stats.nct in the
    # tests of statistics), and as many for twice the difference at twice the deviation
    steps = [-0.25, 0.0, 0.25]
    records = [
        *seeds("baseline", *(90 + step for step in steps)),
        *seeds("st", *(91 + step for step in steps)),
        *seeds("baseline", *(80 + 2 * step for step in steps), dataset="svhn"),
        *seeds("st", *(81 + 2 * step for step in steps), dataset="svhn"),
    ]
    write(tmp_path / "runs", records)
    code, printed = kd_bench("plan", "--detect", "0.3")
    heading, digits, svhn = printed.splitlines()
    assert code == 0
    assert "0.3 points with 80 % power (two-sided 95 %, noncentral t)" in heading
    assert digits == "digits resnet20-resnet8: 12 seeds (SD 0.25, 4 degrees of freedom)"
    assert svhn.startswith("svhn resnet20-resnet8: 45 seeds (SD 0.50")
    _, printed = kd_bench("plan", "--detect=0.6", "--dataset", "svhn")
    assert printed.splitlines()[1:] == [
        "svhn resnet20-resnet8: 12 seeds (SD 0.50, 4 degrees of freedom)"
    ]
    assert "corrected for 10 methods" in kd_bench("plan", "--detect", "0.3", "--methods", "10")[1]


def test_without_two_seeds_of_any_method_no_number_of_seeds_is_given(kd_bench, tmp_path):
    write(tmp_path / "runs", [record(), record("st")])
    code, printed = kd_bench("plan", "--detect", "0.3")
    assert code == 2
    assert "no method in runs has two seeds" in printed


@pytest.mark.parametrize("words", [["--detect", "0"], ["--detect", "1", "--methods", "0"]])
def test_the_difference_and_the_number_of_methods_must_be_above_zero(kd_bench, words):
    code, printed = kd_bench("plan", *words)
    assert code == 2
    assert "must be" in printed
