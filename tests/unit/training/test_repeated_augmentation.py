"""Repeated augmentation: an order by hand, timm's batches, and the views of repetitions."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs import job, setup_of

from kd_bench.data.augment import image_of, occurrences
from kd_bench.interfaces import UserError
from kd_bench.jobs.validate import validate_job
from kd_bench.training.distributed.ranks import Ranks
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.setup import phases
from kd_bench.training.step import Step
from kd_bench.utils.seeds import derive_seed


def test_an_order_by_hand():
    # 2 2 2 0 0 0 of six images, in batches of four and two; the number of repetitions times 6 added
    order = torch.tensor([2, 0, 5, 1, 4, 3])
    found = occurrences(order, 3, [4, 2])
    assert found.tolist() == [2, 0, 2 + 6, 2 + 12, 0 + 6, 0 + 12]
    assert image_of(found, 6).tolist() == [2, 0, 2, 2, 0, 0]


@pytest.mark.parametrize("sizes", [[4, 2], [4], [6]])
def test_without_repetitions_an_order_stays_as_it_is(sizes):
    order = torch.randperm(6)
    assert torch.equal(occurrences(order, 1, sizes), order)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_batches_have_the_images_of_timms_sampler(processes):
    pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
    timm = pytest.importorskip("timm.data.distributed_sampler", reason="pip install timm")
    images, batch = 96, 16
    given = {"num_repeats": 3, "selected_round": 0}  # no rounding to multiples of 256 images
    samplers = [
        timm.RepeatAugSampler(range(images), processes, rank, **given) for rank in range(processes)
    ]
    order = torch.randperm(images, generator=torch.Generator().manual_seed(samplers[0].epoch))
    ours = image_of(occurrences(order, 3, [batch] * 6), images).split(batch)
    each = [torch.tensor(list(sampler)).split(batch // processes) for sampler in samplers]
    theirs = [torch.cat(parts) for parts in zip(*each, strict=True)]
    assert len(ours) == len(theirs) == 6
    for one, other in zip(ours, theirs, strict=True):
        assert one.sort().values.tolist() == other.sort().values.tolist()


def test_neighbours_in_a_batch_and_images_of_one_of_many_processes_differ():
    images, sizes = 640, [64] * 10
    order = occurrences(torch.randperm(images), 3, sizes)
    assert len(order.unique()) == images
    for batch in image_of(order, images).split(64):
        assert (batch != batch.roll(1, 0)).all()
    for rank in range(4):
        for part in image_of(Ranks(rank, 4).share(order, sizes), images).split(16):
            assert len(part.unique()) == 16


# --- in a job ---------------------------------------------------------------------------------

REPEATED = "recipe.repeated_augmentation=3"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def test_an_epoch_has_its_steps_and_a_third_of_the_images_in_three_views(runs, monkeypatch):
    work, batches = setup_of(job(runs, "method=baseline", REPEATED)), []
    step = Step.__call__

    def watch(self, batch, shown=None):
        batches.append(batch)
        return step(self, batch, shown)

    monkeypatch.setattr(Step, "__call__", watch)
    EpochRunner(work, phases(work)[-1]).run(1)
    assert [len(batch.index) for batch in batches] == [16, 16, 8]
    index, view = (torch.cat([getattr(b, key) for b in batches]) for key in ("index", "view"))
    assert index.bincount(minlength=40).sort().values.tolist() == [0] * 26 + [1] + [3] * 13
    pairs = set(zip(index.tolist(), view.tolist(), strict=True))
    assert len(pairs) > 30  # of 40; chance repeats some of an image's views
    assert torch.equal(work.data.train.target[index], torch.cat([b.target for b in batches]))


def test_first_repetitions_have_the_views_of_a_recipe_without_repetitions(runs):
    once, often = (setup_of(job(runs, "method=baseline", *each)) for each in ((), (REPEATED,)))
    first = often.order("main", 1)
    first = first[first < 40]
    assert set(first.tolist()) == set(once.order("main", 1)[:14].tolist())
    views = [work.data.sample_views(first, 1, 5) for work in (once, often)]
    assert torch.equal(*views)


@pytest.mark.slow
def test_a_teacher_that_sees_other_images_sees_the_same_repetition_of_them(runs, monkeypatch):
    work, seen = setup_of(job(runs, "method=control_shuffled", REPEATED)), []
    step = Step.__call__

    def watch(self, batch, shown=None):
        seen.append((batch, shown))
        return step(self, batch, shown)

    monkeypatch.setattr(Step, "__call__", watch)
    EpochRunner(work, phases(work)[-1]).run(1)
    batch, shown = seen[0]
    repetition = work.order("main", 1)[:16] // 40
    partner = work.method.losses["control_shuffled"].partner
    assert torch.equal(shown.index, partner[batch.index])
    views = derive_seed(work.seed, "main", "views")
    expected = work.data.sample_views(shown.index + 40 * repetition, 1, views)
    assert torch.equal(shown.view, expected)


@pytest.mark.slow
def test_images_with_a_single_view_are_rejected_unless_the_recipe_changes_them(runs):
    still = ("method=st", REPEATED, "dataset.pad=0", "dataset.flip=false")
    with pytest.raises(UserError, match=r"one view of each \(pad=0, flip=false\); use recipe.rep"):
        validate_job(job(runs, *still))
    validate_job(job(runs, *still, "recipe.erasing.probability=0.5"))
    validate_job(job(runs, "method=st", REPEATED))


def test_a_loss_with_one_memory_row_per_image_is_rejected_by_name(runs):
    with pytest.raises(UserError, match=r"crd needs different images in a batch, but recipe.rep"):
        validate_job(job(runs, "method=crd", REPEATED))
