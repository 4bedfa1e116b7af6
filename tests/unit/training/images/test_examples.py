"""The example views are those of the first step, for images in memory and streamed ones."""

from __future__ import annotations

import pytest
import torch
from helpers.image_files import write_folder
from helpers.jobs import NETS, composed, job, setup_of

from kd_bench.jobs.resolve import resolve_job
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.images.examples import first_views
from kd_bench.training.setup import phases


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), train=37, sizes=((8, 8),))


def setup(images, *overrides):
    data = ("dataset=image_folder", "dataset.name=x", f"dataset.root={images}", "dataset.pad=1")
    return setup_of(resolve_job(*composed(*data, *NETS, "method=baseline", *overrides)))


@pytest.mark.slow
def test_they_are_the_views_of_the_first_step(images, monkeypatch):
    here, seen = setup(images), []
    make = EpochRunner._batch
    monkeypatch.setattr(
        EpochRunner, "_batch", lambda self, index: seen.append(make(self, index)) or seen[-1]
    )
    views = first_views(here, 5)
    next(iter(EpochRunner(here, phases(here)[0]).steps(1)))
    shown = 255 * (seen[0].image[:5].permute(0, 2, 3, 1) * here.data.std + here.data.mean)
    assert views.shape == (5, 8, 8, 3)
    assert torch.equal(views, shown.round().to(torch.uint8))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_they_are_the_same_for_streamed_images_as_for_images_in_memory(images, workers):
    streamed = setup(images, "dataset.streamed=true", f"dataset.workers={workers}")
    before = torch.get_rng_state()
    views = first_views(streamed, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(views, first_views(setup(images), 5))


def test_there_are_at_most_as_many_as_in_a_batch(tmp_path):
    small = setup_of(job(tmp_path, "method=baseline", "recipe.batch_size=4"))
    assert len(first_views(small, 8)) == 4
