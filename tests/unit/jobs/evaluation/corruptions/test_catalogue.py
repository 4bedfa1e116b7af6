"""Rules for all corruptions: shapes, determinism, and growth with the severity."""

from __future__ import annotations

import pytest
import torch

from kd_bench.jobs.evaluation.corruptions.catalogue import CORRUPTIONS, EXTRA, corrupted

NAMES = [*CORRUPTIONS, *EXTRA]


def images(count=3, size=32, seed=0):
    """Smooth color images."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=random)
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (fine * 255).byte().permute(0, 2, 3, 1)


def distance(one, other):
    return (one.float() - other.float()).abs().mean().item()


@pytest.mark.parametrize("name", NAMES)
def test_images_are_changed_in_the_same_way_every_time(name):
    image = images()
    made = corrupted(image, name, 3, 0)
    assert (made.dtype, made.shape) == (torch.uint8, image.shape)
    assert torch.equal(made, corrupted(image, name, 3, 0))
    assert distance(made, image) > 0.3
    assert torch.equal(image, images())  # not modified in place


# Except elastic_transform, whose affine part is largest at strength 1
@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "elastic_transform"])
def test_the_highest_strength_changes_more_than_the_lowest(name):
    image = images()
    first, last = (distance(corrupted(image, name, strength, 0), image) for strength in (1, 5))
    assert last > first


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [8, 33])
def test_images_may_have_other_sizes(name, size):
    assert corrupted(images(size=size), name, 5, 0).shape == (3, size, size, 3)


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "motion_blur", "snow", "fog"])
def test_each_part_has_its_own_random_numbers(name):
    image = images()
    assert not torch.equal(corrupted(image, name, 3, 0), corrupted(image, name, 3, 1))


def test_14_of_the_papers_15_corruptions_and_3_of_its_4_extra_ones_exist():
    assert "frost" not in NAMES
    assert "spatter" not in NAMES
    assert (len(CORRUPTIONS), len(EXTRA)) == (14, 3)
