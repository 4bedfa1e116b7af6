"""Augmentation is a uniform function of (seed, epoch, index) and matches plain slicing."""

from collections import Counter
from itertools import product

import pytest
import torch
from helpers.images import augmented
from helpers.splitmix import reference_splitmix64
from hypothesis import given, settings, strategies
from scipy import stats

from kd_bench.data import augment
from kd_bench.data.dataset import Dataset
from kd_bench.data.synthetic import Synthetic

INT64 = strategies.integers(-(1 << 63), (1 << 63) - 1)


@pytest.fixture(scope="module")
def data():
    source = Synthetic(num_classes=3, size=7, train=60, test=3, seed=0, noise=0.3)
    return Dataset(source, pad=2, padding="zero", flip=True).load()


@given(seed=INT64, epoch=strategies.integers(0, 10**6), index=strategies.integers(0, 10**9))
def test_views_match_a_big_integer_implementation(seed, epoch, index):
    word = reference_splitmix64(reference_splitmix64(reference_splitmix64(seed) + epoch) + index)
    drawn = augment.sample_view(seed, epoch, torch.tensor([index]), 162)
    assert drawn.tolist() == [word % (1 << 63) % 162]


@pytest.mark.parametrize(
    ("pad", "flip", "count"), [(4, True, 162), (1, False, 9), (4, False, 81), (0, False, 1)]
)
def test_the_view_count_is_crops_times_flips(pad, flip, count):
    assert augment.view_count(pad, flip) == count
    top, left, mirrored = augment.decode_view(torch.arange(count), pad, flip)
    seen = set(zip(top.tolist(), left.tolist(), mirrored.tolist(), strict=True))
    steps = range(2 * pad + 1)
    assert seen == set(product(steps, steps, (False, True) if flip else (False,)))


def chi_square(drawn, count):
    """The p-value of `drawn` being uniform over 0..count-1."""
    seen = Counter(drawn)
    assert set(seen) <= set(range(count))
    return stats.chisquare([seen[k] for k in range(count)]).pvalue


def passes(p):
    # Neither less nor more uniform than chance: cycling through all views would have p = 1.
    return 1e-3 < p < 1 - 1e-3


@pytest.mark.slow
def test_views_are_uniform_over_images_epochs_and_seeds():
    many = torch.arange(32_400)
    over_images = augment.sample_view(7, 3, many, 162)
    over_epochs = augment.sample_view(7, many, torch.full_like(many, 5), 162)
    over_seeds = [augment.sample_view(k, 3, torch.tensor([5]), 162).item() for k in range(3_240)]
    assert passes(chi_square(over_images.tolist(), 162))
    assert passes(chi_square(over_epochs.tolist(), 162))
    assert passes(chi_square(over_seeds, 162))
    # The check can fail: too uniform, and not uniform enough
    assert not passes(chi_square((many % 162).tolist(), 162))
    assert not passes(chi_square((over_images * 0.99).int().tolist(), 162))


def test_views_of_consecutive_epochs_are_independent():
    index = torch.arange(16_200)
    now, then = (augment.sample_view(0, epoch, index, 9) for epoch in (1, 2))
    assert passes(chi_square((9 * now + then).tolist(), 81))
    # and of consecutive images
    assert passes(chi_square((9 * now[:-1] + now[1:]).tolist(), 81))


def test_an_epoch_may_be_a_tensor_of_any_type():
    index = torch.arange(50)
    drawn = augment.sample_view(1, 12, index, 162)
    assert torch.equal(augment.sample_view(1, torch.tensor(12.0), index, 162), drawn)
    assert torch.equal(augment.sample_view(1, torch.tensor(12), index, 162), drawn)


def test_padding_is_zero_or_reflect():
    image = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.uint8).view(1, 3, 3, 1)
    zero = augment.pad_images(image, 1, "zero")[0, :, :, 0].tolist()
    assert zero == [[0, 0, 0, 0, 0], [0, 1, 2, 3, 0], [0, 4, 5, 6, 0], [0, 7, 8, 9, 0], [0] * 5]
    reflect = augment.pad_images(image, 2, "reflect")[0, :, :, 0].tolist()
    assert reflect == [
        [9, 8, 7, 8, 9, 8, 7],
        [6, 5, 4, 5, 6, 5, 4],
        [3, 2, 1, 2, 3, 2, 1],
        [6, 5, 4, 5, 6, 5, 4],
        [9, 8, 7, 8, 9, 8, 7],
        [6, 5, 4, 5, 6, 5, 4],
        [3, 2, 1, 2, 3, 2, 1],
    ]


@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize(("pad", "flip"), [(4, True), (4, False), (1, True), (0, True)])
def test_every_view_equals_slicing_and_flipping(pad, flip, padding):
    height, width, images = 6, 9, 5
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (images, height, width, 3), generator=generator).to(torch.uint8)
    padded = augment.pad_images(image, pad, padding)
    count = augment.view_count(pad, flip)
    index = (torch.arange(count) * 3) % images
    gathered = augment.crop_and_flip(padded, index, torch.arange(count), pad, flip)
    assert gathered.dtype == torch.uint8
    position = 0
    for top, left in product(range(2 * pad + 1), repeat=2):
        for mirrored in (False, True)[: 1 + flip]:
            window = padded[index[position], top : top + height, left : left + width]
            expected = window.flip(1) if mirrored else window
            assert torch.equal(gathered[position], expected)
            position += 1
    assert position == count


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(
    index=strategies.lists(strategies.integers(0, 59), min_size=1, max_size=70),
    epoch=strategies.integers(1, 500),
    seed=strategies.integers(0, 2**31),
)
def test_a_view_does_not_depend_on_the_batch_it_is_in(data, index, epoch, seed):
    batch = augmented(data, torch.tensor(index), epoch, seed)
    for position, one in enumerate(index):
        alone = augmented(data, torch.tensor([one]), epoch, seed)
        assert torch.equal(batch[position], alone[0])  # bitwise equal, not just close


def test_views_change_with_seed_and_epoch(data):
    index = torch.arange(60)
    first = augmented(data, index, 1, 0)
    assert torch.equal(augmented(data, index, 1, 0), first)
    assert not torch.equal(augmented(data, index, 2, 0), first)
    assert not torch.equal(augmented(data, index, 1, 1), first)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_view_has_the_same_bits_on_the_gpu(data):
    source = Synthetic(num_classes=3, size=7, train=60, test=3, seed=0, noise=0.3)
    on_gpu = Dataset(source, pad=2, padding="zero", flip=True).load("cuda")
    index = torch.arange(60)
    epoch = torch.tensor(4.0, device="cuda")
    for each in (epoch, 4):  # a tensor on the device, as in a captured step, and a number
        there = augmented(on_gpu, index.cuda(), each, 9)
        assert torch.equal(there.cpu(), augmented(data, index, 4, 9))
