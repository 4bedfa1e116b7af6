"""Several processes of a job compute what a single process computes."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs import job, trained
from helpers.several_processes import train_all, train_steps

from kd_bench.jobs.assemble import assemble_setup
from kd_bench.training.distributed.launch import launch
from kd_bench.training.distributed.ranks import Ranks
from kd_bench.training.loop import Evaluator

RECIPE = "st by another recipe"
REPEATED = (
    "recipe.repeated_augmentation=3",
    "recipe.erasing.probability=0.5",
    "recipe.label_loss=bce",
)
# Steps of 3 epochs of 40 images in batches of 16, 16 and 8. The init phase of `ft` adds an epoch,
# for parts that are frozen afterwards.
STEPS = {"st": 9, "at": 9, "rkd": 9, "crd": 9, "ft": 12, RECIPE: 9}


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """By method: the results of one process, and those of two."""
    runs = tmp_path_factory.mktemp("runs")
    common = ("recipe.epochs=3", "speed=reference")
    jobs = {name: job(runs, f"method={name}", *common) for name in STEPS if name != RECIPE}
    jobs[RECIPE] = job(runs, "method=st", *common, *REPEATED, "recipe@teacher.recipe=quickstart")
    for teacher in (*jobs["st"].teachers, *jobs[RECIPE].teachers):
        trained(teacher)
    alone = [train_steps(Ranks(), each) for each in jobs.values()]
    together = launch(2, train_all, list(jobs.values()))
    return dict(zip(jobs, zip(alone, together, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", STEPS)
def test_two_processes_have_the_losses_of_one(losses, method):
    (alone, _), (together, _) = losses[method]
    assert len(alone) == STEPS[method]
    assert together == pytest.approx(alone, rel=1e-8)
    assert len(set(alone)) == len(alone)


@pytest.mark.slow
def test_memory_banks_are_equal_in_all_processes_and_to_those_of_one(losses):
    (_, alone), (_, together) = losses["crd"]
    for (expected,), (first, second) in zip(alone, together, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, expected)


def test_each_process_has_its_part_of_each_batch_in_order():
    order, sizes = torch.tensor([5, 3, 0, 6, 2, 4, 1]), [4, 2]
    shares = [Ranks(rank, 2).share(order, sizes).tolist() for rank in (0, 1)]
    assert shares == [[5, 3, 2], [0, 6, 4]]
    assert Ranks().share(order, sizes).tolist() == [5, 3, 0, 6, 2, 4]


def test_each_image_is_evaluated_by_one_process():
    parts = [list(range(10))[Ranks(rank, 4).part(10)] for rank in range(4)]
    assert [image for part in parts for image in part] == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_last_batch_drops_images_that_cannot_be_shared(tmp_path):
    (runs := tmp_path / "runs").mkdir()
    given = job(runs, "method=baseline", "dataset.source.train=39")
    setup = assemble_setup(given, torch.device("cpu"), ranks=Ranks(0, 2))
    assert setup.step_sizes == [16, 16, 6]


def test_a_split_may_have_fewer_images_than_there_are_processes(tmp_path):
    class First(Ranks):
        """The first of two processes, without the other one."""

        def gather(self, tensor):
            return tensor

    (runs := tmp_path / "runs").mkdir()
    given = job(runs, "method=baseline", "dataset.validation=1")
    setup = assemble_setup(given, torch.device("cpu"), ranks=First(0, 2))
    score = Evaluator(setup)
    assert score()["validation_accuracy"] == 0.0
    assert 0.0 <= score()["test_accuracy"] <= 50.0  # of half the images
