"""Digital corruptions compared with the standard library and SciPy."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from kd_bench.jobs.evaluation.corruptions import digital


def random():
    return np.random.default_rng(0)


def pictures(count=2, size=32):
    """Random images with 8-bit values in 0..1."""
    return random().integers(0, 256, (count, size, size, 3)) / 255


def test_contrast_moves_pixels_towards_the_mean_of_their_channel():
    image = np.zeros((1, 1, 2, 3))
    image[0, 0, 1] = [1.0, 0.5, 0.2]
    made = digital.contrast(image, 2, random())
    assert made[0, 0, 0] == pytest.approx([0.25, 0.125, 0.05])
    assert made[0, 0, 1] == pytest.approx([0.75, 0.375, 0.15])


@pytest.mark.parametrize(("strength", "factor", "more"), [(1, 0.3, 0), (4, 2, 0.1)])
def test_saturation_is_that_of_hsv(strength, factor, more):
    image = pictures(1, 6)
    image[0, 0, 0] = 0.5  # grey: HSV has its hue at red
    image[0, 0, 1] = 0.0
    made = digital.saturate(image, strength, random())
    for before, after in zip(image.reshape(-1, 3), made.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        saturation = min(saturation * factor + more, 1)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, value), abs=1e-9)


def test_pixelation_averages_boxes():
    image = pictures(1, 4)  # 0.65 of 4 pixels are 2
    made = digital.pixelate(image, 5, random())
    means = image.reshape(1, 2, 2, 2, 2, 3).mean(axis=(2, 4))
    assert made == pytest.approx(means.repeat(2, 1).repeat(2, 2), abs=1 / 255)


def test_jpeg_errors_grow_with_strength_and_are_zero_for_a_grey_image():
    image = pictures()
    lost = [np.abs(digital.jpeg_compression(image, s, random()) - image).mean() for s in (1, 3, 5)]
    assert lost == sorted(lost)
    grey = np.full((1, 16, 16, 3), 128 / 255)
    assert digital.jpeg_compression(grey, 5, random()) == pytest.approx(grey)


def test_images_are_warped_as_by_scipys_map_coordinates():
    image, (y, x) = pictures(), np.mgrid[0.0:32, 0.0:32]
    x, y = x + random().uniform(-3, 3, (2, 32, 32)), y + random().uniform(-3, 3, (2, 32, 32))
    made = digital.warped(image, x, y)
    for n in range(2):
        for c in range(3):
            expected = map_coordinates(image[n, :, :, c], (y[n], x[n]), order=1, mode="mirror")
            assert made[n, :, :, c] == pytest.approx(expected)


def test_an_affine_map_with_distance_0_is_the_identity():
    y, x = np.mgrid[0.0:32, 0.0:32]
    still = digital._affine(x, y, 0.0, 1, random())
    assert (still[0][0], still[1][0]) == (pytest.approx(x), pytest.approx(y))


def test_an_affine_map_moves_three_corners_to_their_new_places():
    y, x = np.mgrid[0.0:32, 0.0:32]
    source_x, source_y = (each[0] for each in digital._affine(x, y, 2.0, 1, random()))
    corners = np.array([[26, 26], [26, 6], [6, 6]])
    places = corners + random().uniform(-2, 2, (3, 2))
    for corner, (column, row) in zip(corners, places, strict=True):
        # a linear function of the place, so interpolating between pixels is exact
        found = [
            map_coordinates(each, [[row], [column]], order=1)[0] for each in (source_x, source_y)
        ]
        assert found == pytest.approx(corner)


def test_the_strongest_distortion_has_the_smallest_wavelength():
    # displacing a ramp from left to right changes its values by the displacement
    ramp = np.broadcast_to(np.linspace(0, 1, 32)[None, None, :, None], (4, 32, 32, 3)).copy()
    made = [digital.elastic_transform(ramp, strength, random()) for strength in (1, 5)]
    rough = [np.abs(np.diff(each[:, 8:24, 8:24, 0], n=2, axis=1)).mean() for each in made]
    assert rough[0] < 1e-6 < rough[1]
