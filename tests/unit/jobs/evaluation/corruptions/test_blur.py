"""Blur: the spread of a single bright pixel, and zoomed images compared with SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import zoom

from kd_bench.jobs.evaluation.corruptions import blur

BLURS = (blur.gaussian_blur, blur.defocus_blur, blur.motion_blur, blur.zoom_blur, blur.glass_blur)


def random():
    return np.random.default_rng(0)


def point(size=33):
    """An image with a bright pixel in its center."""
    image = np.zeros((1, size, size, 3))
    image[0, size // 2, size // 2] = 1
    return image


def spread(image):
    """The variance of light over the rows of an image [1, H, W, 3]."""
    light = image[0, :, :, 0].sum(1) / image[0, :, :, 0].sum()
    rows = np.arange(len(light))
    return (light * rows**2).sum() - (light * rows).sum() ** 2


@pytest.mark.parametrize("make", BLURS)
@pytest.mark.parametrize("strength", [1, 5])
def test_an_image_of_one_color_does_not_change(make, strength):
    grey = np.full((2, 32, 32, 3), 0.3)
    assert make(grey, strength, random()) == pytest.approx(grey)


@pytest.mark.parametrize("size", [33, 65])
def test_a_gaussian_filter_has_the_papers_variance_at_32_pixels_and_scales(size):
    made = blur.gaussian_blur(point(size), 5, random())
    assert spread(made) == pytest.approx((size / 32) ** 2, rel=0.01)


def test_lengths_are_not_scaled_down_for_small_images():
    assert spread(blur.gaussian_blur(point(17), 5, random())) == pytest.approx(1, rel=0.01)


def test_a_disk_of_radius_one_is_a_cross_of_five_pixels():
    # with such a sharp edge, the Gaussian for antialiasing is a single pixel
    kernel = blur.disk_kernel(1.0, 0.01)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]) / 5
    assert kernel[1:-1, 1:-1] == pytest.approx(cross)
    assert blur.disk_kernel(1.5, 0.5).sum() == pytest.approx(1)


def test_a_disk_smaller_than_a_pixel_is_the_gaussian_of_its_edge():
    # exp(-1 / (2 * 0.4^2)) = 0.043937 on both sides of 1
    line = np.array([0.043937, 1, 0.043937]) / 1.087874
    kernel = blur.disk_kernel(0.3, 0.4)
    assert kernel[1:-1, 1:-1] == pytest.approx(np.outer(line, line), abs=1e-6)


def test_motion_to_the_right_averages_pixels_to_the_right_by_half_a_gaussian():
    made = blur.moved(point(), 3, 1.0, np.zeros(1))[0, 16, :, 0]
    weights = np.exp(-(np.arange(7) ** 2) / 2)
    assert made[10:17][::-1] == pytest.approx(weights / weights.sum())
    assert not made[17:].any()


def test_motion_downwards_moves_along_the_column():
    made = blur.moved(point(), 3, 1.0, np.array([90.0]))[0, :, :, 0]
    assert (made.sum(0) > 0).nonzero()[0].tolist() == [16]


def test_each_image_moves_in_its_own_direction():
    both = np.concatenate([point(), point()])
    made = blur.motion_blur(both, 5, random())
    assert not np.allclose(made[0], made[1])
    assert made[..., 0].sum(axis=(1, 2)) == pytest.approx([1, 1])


@pytest.mark.parametrize("factor", [1.0, 1.07, 1.25, 2.0])
@pytest.mark.parametrize("size", [32, 33])
def test_the_center_is_zoomed_as_by_scipy(factor, size):
    image = random().random((2, size, size, 3))
    cut = int(np.ceil(size / factor))
    top = (size - cut) // 2
    part = image[:, top : top + cut, top : top + cut]
    large = zoom(part, (1, factor, factor, 1), order=1)
    trim = (large.shape[1] - size) // 2
    expected = large[:, trim : trim + size, trim : trim + size]
    assert blur.zoomed(image, factor) == pytest.approx(expected)


def test_glass_only_moves_pixels():
    image = random().random((3, 16, 16, 3))
    made = blur.glass_blur(image, 1, random())  # sigma 0.05: no smoothing
    colors = {tuple(color) for color in image.reshape(-1, 3)}
    assert {tuple(color) for color in made.reshape(-1, 3)} <= colors
    assert (made != image).any(axis=3).mean() > 0.3
    assert (made[:, 0] == image[:, 0]).all()  # pixels of the outermost row are not moved
