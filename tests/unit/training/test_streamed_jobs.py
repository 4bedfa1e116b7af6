"""Jobs on streamed images: the same bits as with images in memory, resumed or not; errors."""

import re
from dataclasses import replace

import PIL
import pytest
import torch
from helpers.image_files import write_folder
from helpers.jobs import NETS, composed, setup_of

from kd_bench.interfaces import UserError
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.runner import NullReporter, run_with_teacher
from kd_bench.jobs.validate import cache_shape, validate_job
from kd_bench.training import loop


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), train=37, sizes=((8, 8),))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Images in three sizes."""
    folder = tmp_path_factory.mktemp("large")
    return write_folder(folder, train=20, sizes=((12, 16), (20, 12), (9, 9)))


CROP = ("dataset.resized_crop.size=8", "dataset.resized_crop.resize=9")


def job(runs, root, *overrides):
    data = ("dataset=image_folder", "dataset.name=x", f"dataset.root={root}", "dataset.pad=1")
    config, _ = composed(*data, "dataset.workers=0", *NETS, *overrides)
    return resolve_job(replace(config, runs_dir=str(runs)), {})


def outcome(job):
    """History and weights of a trained job."""
    run_with_teacher(job, NullReporter())
    weights = torch.load(job.path / "weights.pt", weights_only=True)
    return (job.path / "history.csv").read_text(), weights


def same(one, other):
    return one[0] == other[0] and all(torch.equal(one[1][k], other[1][k]) for k in one[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen",
    [
        ("method=st",),
        ("method=nd",),  # makes a pass over all images first
        ("method=st", "recipe.mixup=0.8", "recipe.cutmix=1.0"),
        ("method=st", "recipe.erasing.probability=0.5", "recipe.repeated_augmentation=3"),
    ],
    ids=["st", "nd", "mixed", "erased"],
)
def test_a_streamed_job_has_the_bits_of_a_job_in_memory(tmp_path, images, chosen):
    held = outcome(job(tmp_path, images, *chosen, "dataset.validation=4"))
    streamed = outcome(
        job(tmp_path, images, *chosen, "dataset.validation=4", "dataset.streamed=true")
    )
    assert same(held, streamed)


@pytest.mark.slow
def test_an_interrupted_streamed_job_resumes_to_the_same_bits(tmp_path, images, monkeypatch):
    overrides = ("method=baseline", "dataset.streamed=true", "recipe.epochs=3")
    whole = outcome(job(tmp_path / "whole", images, *overrides))
    interrupted = job(tmp_path / "interrupted", images, *overrides)
    advance, steps = loop.EpochRunner.steps, 0

    def dying(self, epoch):
        for size in advance(self, epoch):
            nonlocal steps
            steps += 1
            if steps == 5:  # in the middle of the second epoch
                raise KeyboardInterrupt
            yield size

    with monkeypatch.context() as patched:
        patched.setattr(loop.EpochRunner, "steps", dying)
        with pytest.raises(KeyboardInterrupt):
            outcome(interrupted)
    assert not (interrupted.path / "result.json").exists()
    assert same(outcome(interrupted), whole)


@pytest.mark.slow
def test_streaming_is_part_of_a_jobs_identity_and_workers_are_not(tmp_path, images):
    held = job(tmp_path, images, "method=baseline")
    assert "streamed" not in held.identity["dataset"]
    streamed, four = (
        job(tmp_path, images, "method=baseline", "dataset.streamed=true", *more)
        for more in ([], ["dataset.workers=4"])
    )
    assert streamed.folder == four.folder != held.folder


@pytest.mark.slow
def test_randaugment_depends_on_the_seed_and_not_on_the_workers(tmp_path, images):
    rand = ("method=baseline", "dataset.streamed=true", "dataset.randaugment.operations=2")
    here, there = (
        outcome(job(tmp_path / count, images, *rand, f"dataset.workers={count}"))
        for count in ("0", "2")
    )
    assert same(here, there)
    assert not same(here, outcome(job(tmp_path, images, *rand[:2])))


@pytest.mark.slow
def test_random_resized_crops_of_images_of_several_sizes_are_reproducible(tmp_path, large):
    crop = (*CROP, "dataset.pad=0", "dataset.streamed=true")
    made = job(tmp_path, large, "method=st", *crop)
    validate_job(made)
    setup = setup_of(made)
    assert setup.data.image_size == (8, 8)
    first = outcome(made)
    assert same(first, outcome(job(tmp_path / "again", large, "method=st", *crop)))
    assert made.identity["dataset"]["resized_crop"] == {"size": 8, "resize": 9}
    assert made.read_record().versions["pillow"] == PIL.__version__


def refused(message):
    return pytest.raises(UserError, match=re.escape(message))


def test_a_teacher_cache_needs_images_in_memory(tmp_path, images):
    made = job(tmp_path, images, "method=st", "teacher.source=table", "dataset.streamed=true")
    with refused("use teacher.source=online or dataset.streamed=false"):
        validate_job(made)
    assert cache_shape(made) is None


@pytest.mark.slow
def test_a_method_that_shows_the_teacher_other_images_needs_images_in_memory(tmp_path, images):
    with refused("method 'control_shuffled' shows the teacher other images than the student"):
        validate_job(job(tmp_path, images, "method=control_shuffled", "dataset.streamed=true"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.pad=0"], "dataset.resized_crop requires streamed images"),
        (["dataset.streamed=true"], "dataset.resized_crop replaces padding; add"),
    ],
)
def test_random_resized_crops_need_streaming_without_padding(tmp_path, images, overrides, message):
    with refused(message):
        validate_job(job(tmp_path, images, "method=baseline", *CROP, *overrides))
