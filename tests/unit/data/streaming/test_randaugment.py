"""RandAugment of streamed images: torchvision's, seeded only by the number of the view."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_bench.data.streaming.randaugment import RandAugmented, check_randaugment
from kd_bench.data.streaming.views import PaddedCrop
from kd_bench.interfaces import UserError
from kd_bench.utils.torchvision import import_torchvision

CROPS = PaddedCrop(pad=1, padding="zero", flip=True)
IMAGES = list(np.random.default_rng(0).integers(256, size=(3, 8, 8, 3), dtype=np.uint8))
VIEWS = torch.tensor([5, 2**61 + 7, 99])


def test_it_equals_torchvisions_randaugment_of_the_crops_seeded_by_the_view():
    made = RandAugmented(CROPS, operations=2, magnitude=9).augmented(IMAGES, VIEWS)
    crops = CROPS.augmented(IMAGES, VIEWS % CROPS.count)
    theirs = import_torchvision().transforms.RandAugment(num_ops=2, magnitude=9)
    for image, crop, number in zip(made, crops, VIEWS.tolist(), strict=True):
        torch.manual_seed(number)
        assert torch.equal(image.permute(2, 0, 1), theirs(crop.permute(2, 0, 1)))
    assert not torch.equal(made, crops)


def test_it_depends_neither_on_the_batch_nor_on_the_global_generator():
    views = RandAugmented(CROPS, operations=2, magnitude=9)
    whole = views.augmented(IMAGES, VIEWS)
    before = torch.get_rng_state()
    assert torch.equal(views.augmented(IMAGES[1:2], VIEWS[1:2]), whole[1:2])
    assert torch.equal(torch.get_rng_state(), before)


def test_test_images_are_not_augmented():
    views = RandAugmented(CROPS, operations=2, magnitude=9)
    assert torch.equal(views.plain(IMAGES), CROPS.plain(IMAGES))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1, 9), "operations must be above 0, got -1"),
        ((2, 31), "magnitude must be from 0 to 30"),
    ],
)
def test_numbers_that_torchvision_does_not_accept_are_refused(numbers, message):
    with pytest.raises(UserError, match=message):
        check_randaugment(*numbers)
