"""Random resized crops: their boxes and pixels, the center crop of test images, and errors."""

import math
import re

import numpy as np
import pytest
import torch
from helpers.splitmix import WORD, reference_splitmix64
from PIL import Image

from kd_bench.data.streaming.views import ResizedCrop, _resize
from kd_bench.interfaces import UserError


def crop(**changed):
    usual = {"size": 4, "resize": 5, "area": [0.08, 1.0], "ratio": [0.75, 4 / 3], "flip": True}
    return ResizedCrop(**{**usual, **changed})


def image(height=20, width=30):
    """An image whose red is the row and whose green is the column."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, 0 * x], -1).astype(np.uint8)


def views(count):
    return torch.from_numpy(np.random.default_rng(0).integers(2**62, size=count))


def words(*fractions):
    """Random integers that are these fractions of 2^63."""
    return [int(each * 2**63) for each in fractions]


def test_a_box_by_hand():
    # area: halfway from 0.08 to 1 of 100 x 200 pixels; ratio: halfway from log 1/2 to log 2, so 1;
    # side = sqrt(0.54 * 20000) = 103.9, larger than the image; then 0.08 and 1: sqrt(1600) = 40
    made = crop(ratio=[0.5, 2.0])
    drawn = [*words(0.5, 0.5), 7, 7, *words(0.0, 0.5), 161 * 5 + 3, 61 * 9 + 2]
    assert made.box(100, 200, drawn) == (3, 2, 40, 40)


def test_if_no_box_fits_the_largest_one_in_the_center_is_used():
    # boxes with the area of the whole image and ratio 1, for images of ratio 4 and 1/4
    made = crop(area=[1.0, 1.0], ratio=[1.0, 1.0])
    assert made.box(10, 40, [0] * 41) == (15, 0, 10, 10)
    assert made.box(40, 10, [0] * 41) == (0, 15, 10, 10)


def test_boxes_have_the_distribution_of_area_and_ratio():
    made = crop(area=[0.1, 0.4], ratio=[0.5, 2.0])
    boxes = [made.box(400, 400, each) for each in made._words(views(4000))]
    left, top, width, height = np.array(boxes).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= 400).all()
    assert (top + height <= 400).all()
    area, ratio = width * height / 400**2, width / height
    # nearly uniform in [0.1, 0.4]: the widest of the largest boxes do not fit
    assert area.mean() == pytest.approx(0.25, abs=0.01)
    assert np.quantile(area, 0.2) == pytest.approx(0.16, abs=0.01)
    assert np.log(ratio).mean() == pytest.approx(0, abs=3 * 2 * math.log(2) / math.sqrt(12 * 4000))
    assert ratio.min() == pytest.approx(0.5, abs=0.02)
    place = left / np.maximum(1, 400 - width)
    assert place.mean() == pytest.approx(0.5, abs=3 / math.sqrt(12 * 4000))


def test_all_random_numbers_of_a_view_follow_from_its_number():
    [drawn] = crop()._words(torch.tensor([12345]))
    state = reference_splitmix64(12345)
    for place in (0, 1, 40):
        word = reference_splitmix64((state + place * 0x9E3779B97F4A7C15) % WORD)
        assert drawn[place] == (word & (2**63 - 1)) % (2**63 - 1)


def test_a_view_is_the_same_in_every_batch():
    made, numbers = crop(), views(6)
    images = [image(20 + n, 30 - n) for n in range(6)]
    together = made.augmented(images, numbers)
    assert together.shape == (6, 4, 4, 3)
    assert together.dtype == torch.uint8
    alone = [made.augmented([images[n]], numbers[n : n + 1])[0] for n in range(6)]
    assert torch.equal(together, torch.stack(alone))
    assert len({tuple(each.flatten().tolist()) for each in together}) == 6


def test_a_box_is_cropped_before_it_is_resized_and_half_of_the_views_are_flipped():
    # Boxes of the whole 4x4 image at its size: a view is the image or its mirror image.
    made = crop(area=[1.0, 1.0], ratio=[1.0, 1.0])
    whole = torch.from_numpy(image(4, 4))
    shown = made.augmented([image(4, 4)] * 200, views(200))
    flipped = [torch.equal(each, whole.flip(1)) for each in shown]
    assert all(
        torch.equal(each, whole) or is_flipped
        for each, is_flipped in zip(shown, flipped, strict=True)
    )
    assert 70 < sum(flipped) < 130
    never = crop(area=[1.0, 1.0], ratio=[1.0, 1.0], flip=False)
    assert torch.equal(never.augmented([image(4, 4)] * 9, views(9)), whole.expand(9, 4, 4, 3))


def test_a_test_image_is_the_center_of_the_resized_image():
    # 10x20 to 5x10: 2x2 pixels become one; of the columns 0..9, the center has 3..6
    plain = crop(size=4, resize=5).plain([np.repeat(np.repeat(image(5, 10), 2, 0), 2, 1)])
    assert plain.shape == (1, 4, 4, 3)
    assert plain[0, :, :, 1].float().mean(0).round().tolist() == [3, 4, 5, 6]
    small = crop(size=4, resize=4).plain([image(4, 4)])
    assert torch.equal(small[0], torch.from_numpy(image(4, 4)))


@pytest.mark.parametrize(("height", "width"), [(31, 45), (9, 200), (16, 16), (7, 5)])
def test_resized_pixels_are_those_of_pillow_but_for_rounding(height, width):
    random = np.random.default_rng(0)
    noise = random.integers(256, size=(height, width, 3)).astype(np.uint8)
    resized = _resize(noise, 16, 12).numpy().astype(int)
    pillow = np.asarray(Image.fromarray(noise).resize((12, 16), Image.Resampling.BILINEAR))
    assert np.abs(resized - pillow).max() <= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": 0}, "dataset.resized_crop.size must be above 0, got 0"),
        (
            {"resize": 3},
            "dataset.resized_crop.resize must be at least dataset.resized_crop.size (4)",
        ),
        (
            {"area": [0.5, 1.5]},
            "area must be the smallest and the largest value, both above 0 and at most 1",
        ),
        ({"area": [0.5]}, "got [0.5]"),
        (
            {"ratio": [2.0, 1.0]},
            "ratio must be the smallest and the largest value, both above 0, got",
        ),
    ],
)
def test_invalid_settings_are_refused(changed, message):
    with pytest.raises(UserError, match=re.escape(message)):
        crop(**changed)
