"""Noise: its mean and standard deviation, compared with those of its distribution."""

from __future__ import annotations

import numpy as np
import pytest

from kd_bench.jobs.evaluation.corruptions import noise

GREY = np.full((4, 64, 64, 3), 0.4)


def noisy(make, strength, image=GREY):
    return make(image, strength, np.random.default_rng(0))


def test_gaussian_noise_has_the_papers_standard_deviation_at_any_brightness():
    for image in (GREY, 0 * GREY):
        made = noisy(noise.gaussian_noise, 5, image)
        assert (made - image).std() == pytest.approx(0.1, rel=0.02)
        assert made.mean() == pytest.approx(image.mean(), abs=2e-3)


def test_shot_noise_has_the_variance_of_a_poisson_distribution():
    made = noisy(noise.shot_noise, 1)  # 200 photons of 500
    assert made.mean() == pytest.approx(0.4, rel=0.01)
    assert made.std() == pytest.approx(200**0.5 / 500, rel=0.02)
    assert np.allclose(made * 500, np.rint(made * 500))


def test_impulse_noise_sets_a_share_of_the_values_to_0_or_1():
    made = noisy(noise.impulse_noise, 5)
    is_hit = made != GREY
    assert is_hit.mean() == pytest.approx(0.07, rel=0.05)
    assert made[is_hit].mean() == pytest.approx(0.5, abs=0.03)
    assert set(np.unique(made[is_hit])) == {0.0, 1.0}


def test_speckle_noise_is_proportional_to_the_brightness():
    assert (noisy(noise.speckle_noise, 2) - GREY).std() == pytest.approx(0.4 * 0.1, rel=0.02)
    assert not noisy(noise.speckle_noise, 5, 0 * GREY).any()
