"""Random erasing: rectangles by hand, equality with timm, and the order of steps in a job."""

from __future__ import annotations

import pytest
import torch
from helpers.jobs import job, setup_of
from scipy import stats
from torch import Tensor

from kd_bench.config.schema import ErasingConfig, ErasingMode
from kd_bench.data.augment import image_of
from kd_bench.interfaces import UserError
from kd_bench.jobs.validate import cache_shape, validate_job
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.images.erasing import TRIES, Erasing, rectangles
from kd_bench.training.images.mixing import Mixing
from kd_bench.training.setup import phases
from kd_bench.utils.seeds import derive_seed
from kd_bench.utils.splitmix import further_words, image_word, uniform

EPOCH = torch.tensor(3.0)
SIZE = (12, 9)
CONST = ErasingMode.const


def word_of(share: float) -> int:
    """A word for which `uniform` returns `share`, to within 2^-52."""
    word = min(int(share * 2**52), 2**52 - 1) << 12
    return word - 2**64 if word >= 2**63 else word


def images(count: int) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def erased(occurrence: Tensor, epoch: Tensor = EPOCH, seed: int = 1, **values) -> Tensor:
    """The images of these occurrences after erasing."""
    return Erasing(ErasingConfig(**values), seed)(images(600)[occurrence], occurrence, epoch)


def test_a_rectangle_by_hand():
    # A fifth of 8 x 10 pixels, as high as wide: 4 x 4, of 5 and 7 places: 7 mod 5 and 9 mod 7
    drawn = torch.tensor([[word_of(0.5), word_of(0.5), 7, 9]])
    found = rectangles(drawn, (8, 10), (0.1, 0.3), (0.25, 4.0))
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(found[0, 0], expected)


def test_the_first_rectangle_that_fits_is_taken_and_none_if_none_does():
    # 16 of 8 x 10 pixels: 8 x 2, which is as high as the image, 2 x 8, and 4 x 4
    tall = [word_of(0.5), word_of(1.0), 0, 0]
    flat = [word_of(0.5), word_of(0.0), 0, 0]
    square = [word_of(0.5), word_of(0.5), 0, 0]
    draws = torch.tensor([[*tall, *flat, *square], [*tall, *tall, *tall]])
    one, other = rectangles(draws, (8, 10), (0.1, 0.3), (0.25, 4.0))
    assert one.nonzero()[:, 1:].amax(0).tolist() == [1, 7]
    assert one.sum() == 16
    assert other.sum() == 0


class Drawn:
    """Python's `random`, as timm uses it, with an image's words as its numbers."""

    def __init__(self, words: Tensor):
        self.words = iter(words)

    def random(self) -> float:
        return uniform(next(self.words)).item()

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def randint(self, low: int, high: int) -> int:
        return low + (next(self.words).item() & (2**63 - 1)) % (high - low + 1)


def test_it_equals_timms_for_the_same_random_numbers(monkeypatch):
    pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
    theirs = pytest.importorskip("timm.data.random_erasing", reason="pip install timm")
    occurrence = torch.arange(300)
    made = erased(occurrence, probability=0.5, mode=CONST)
    words = further_words(image_word(1, EPOCH, occurrence), 1 + 4 * TRIES)
    changed, numbers = 0, iter([])
    for image, ours, drawn in zip(images(600), made, words, strict=False):
        # timm draws a position only for a rectangle that fits
        used, tries = [drawn[0]], drawn[1:].view(TRIES, 4)
        for four in tries:
            if rectangles(four[None], SIZE, (0.02, 1 / 3), (0.3, 1 / 0.3)).any():
                used += [*four]
                break
            used += [*four[:2]]
        numbers = Drawn(torch.stack(used))
        monkeypatch.setattr(theirs, "random", numbers)
        expected = theirs.RandomErasing(probability=0.5, mode="const", device="cpu")(image.clone())
        assert torch.equal(ours, expected)
        changed += not torch.equal(ours, image)
    assert 120 < changed < 180  # 150 with a deviation of 9


def test_areas_and_heights_have_timms_distribution():
    pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
    timm = pytest.importorskip("timm.data.random_erasing", reason="pip install timm")
    count, size = 1500, (32, 32)
    ours = Erasing(ErasingConfig(probability=1.0, mode=CONST), 1)
    shown = torch.arange(count)
    made = ours(torch.ones(count, 3, *size), shown, EPOCH)[:, 0] == 0
    theirs = timm.RandomErasing(probability=1.0, mode="const", device="cpu")
    others = torch.stack([theirs(torch.ones(3, *size))[0] for _ in range(count)]) == 0
    for of in (lambda holes: holes.sum((1, 2)), lambda holes: holes.any(2).sum(1)):  # area, height
        assert stats.ks_2samp(of(made).numpy(), of(others).numpy()).pvalue > 0.001


def test_noise_is_standard_normal_and_other_pixels_stay():
    occurrence = torch.arange(600)
    before, after = images(600), erased(occurrence, probability=1.0)
    is_erased = (erased(occurrence, probability=1.0, mode=CONST) == 0) & (before != 0)
    assert torch.equal(before[~is_erased], after[~is_erased])
    noise = after[is_erased]
    assert stats.kstest(noise[:20_000].numpy(), "norm").pvalue > 0.001
    assert len(noise.unique()) > 0.999 * len(noise)


def test_erasing_depends_only_on_seed_epoch_and_occurrence():
    occurrence = torch.arange(20, 52)
    made = erased(occurrence, probability=0.7)
    assert torch.equal(erased(occurrence[5:9], probability=0.7), made[5:9])
    for changed in ({"epoch": EPOCH + 1}, {"seed": 2}):
        assert not torch.equal(erased(occurrence, probability=0.7, **changed), made)


def test_probability_0_leaves_images_as_they_are():
    occurrence = torch.arange(50)
    assert torch.equal(erased(occurrence, probability=0.0), images(600)[:50])


# --- in a job ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


ERASED = ("recipe.erasing.probability=0.5",)


@pytest.mark.slow
def test_both_networks_get_the_same_images_which_are_erased_and_then_mixed(runs):
    mixed = (*ERASED, "recipe.mixup=0.2", "recipe.repeated_augmentation=3", "speed=reference")
    work = setup_of(job(runs, "method=st", *mixed))
    runner, seen = EpochRunner(work, phases(work)[-1]), {}
    for name, net in (("student", work.student.net), ("teacher", work.teacher.network.net)):
        net.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0].clone())
        )
    runner.run(1)
    assert len(seen["student"]) == 3
    assert all(map(torch.equal, seen["student"], seen["teacher"]))
    occurrence = work.order("main", 1)[:16]
    index = image_of(occurrence, 40)
    assert occurrence.max() >= 80  # third repetitions, which have their own random numbers
    view = work.data.sample_views(occurrence, 1, derive_seed(work.seed, "main", "views"))
    plain, epoch = work.data.augmented_batch(index, view), torch.tensor(1.0)
    erase = Erasing(work.recipe.erasing, derive_seed(work.seed, "main", "erasing"))
    mix = Mixing(work.recipe, derive_seed(work.seed, "main", "mixing"), 4, torch.device("cpu"))
    holes = erase(plain, occurrence, epoch)
    assert not torch.equal(holes, plain)
    expected, _ = mix(holes, work.data.train.target[index], occurrence, epoch)
    assert torch.equal(seen["student"][0], expected)


def test_a_cache_of_the_teachers_outputs_is_rejected(runs):
    with_table = job(runs, "method=st", "teacher.source=table", *ERASED)
    with pytest.raises(
        UserError, match=r"table .*\(erasing.probability=0.5\) into .* use .*=online"
    ):
        validate_job(with_table)
    assert cache_shape(with_table) is None
    assert cache_shape(job(runs, "method=st")) is not None


def test_methods_that_need_labels_work_with_erased_images(runs):
    validate_job(job(runs, "method=dkd", *ERASED))
