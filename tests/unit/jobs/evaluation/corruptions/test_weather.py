"""Weather: brightness compared with the standard library's HSV, clouds, fog and snow."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from kd_bench.jobs.evaluation.corruptions import weather


def random():
    return np.random.default_rng(0)


def test_brightness_raises_the_value_of_hsv():
    image = random().random((2, 4, 4, 3))
    image[0, 0, 0] = 0
    made = weather.brightness(image, 5, random())
    for before, after in zip(image.reshape(-1, 3), made.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1)))


def test_clouds_range_from_0_to_1_in_every_image_and_differ():
    clouds = weather.plasma(3, 20, 2.0, random())
    assert clouds.shape == (3, 32, 32)
    assert (clouds.min(axis=(1, 2)) == 0).all()
    assert clouds.max(axis=(1, 2)) == pytest.approx([1, 1, 1])
    assert not np.allclose(clouds[0], clouds[1])


def test_clouds_are_smoother_with_a_larger_decay():
    def roughness(decay):
        clouds = weather.plasma(8, 32, decay, random())
        return np.abs(np.diff(clouds, axis=1)).mean()

    assert roughness(3.0) < roughness(2.0) < roughness(1.5)


def test_clouds_of_two_by_two_pixels_by_hand():
    # The corner is 0. The center is the mean of four corners, which are the same pixel on a torus,
    # plus noise. The others are means of two corners and two centers, plus noise.
    drawn = np.random.default_rng(0).uniform(-1e4, 1e4, 3)
    middle = drawn[0]
    found = np.array([[0, middle / 2 + drawn[1]], [middle / 2 + drawn[2], middle]])
    expected = (found - found.min()) / (found.max() - found.min())
    assert weather.plasma(1, 2, 3.0, random())[0] == pytest.approx(expected)


def test_fog_adds_clouds_and_keeps_the_maximum():
    image = np.full((1, 32, 32, 3), 0.5)
    clouds = weather.plasma(1, 32, 3.0, random())[..., None]
    expected = (0.5 + 0.2 * clouds) * 0.5 / 0.7
    assert weather.fog(image, 1, random()) == pytest.approx(np.broadcast_to(expected, image.shape))


def test_fog_leaves_a_black_image_black():
    assert not weather.fog(np.zeros((1, 8, 8, 3)), 5, random()).any()


def test_snow_brightens_all_channels_equally():
    image = np.full((2, 32, 32, 3), 0.5)
    made = weather.snow(image, 3, random())
    assert (made >= 0.5).all()
    assert np.ptp(made, axis=3).max() < 1e-12
    # without any flake: 0.9 x + 0.1 max(x, 1.5 grey + 0.5)
    assert made.min() == pytest.approx(0.9 * 0.5 + 0.1 * 1.25)
