"""Noise: Gaussian, shot, impulse, speckle."""

from __future__ import annotations

import numpy as np

from kd_bench.jobs.evaluation.corruptions.common import Array, at


def gaussian_noise(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Additive normal noise with the same scale for dark and bright pixels."""
    return image + random.normal(scale=at(strength, 0.04, 0.06, 0.08, 0.09, 0.1), size=image.shape)


def shot_noise(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Poisson noise, stronger the fewer photons a bright pixel gets."""
    photons = at(strength, 500, 250, 100, 75, 50)
    return random.poisson(image * photons) / photons


def impulse_noise(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Salt and pepper: a fraction of the values becomes 0 or 1, with equal probability."""
    is_hit = random.random(image.shape) < at(strength, 0.01, 0.02, 0.03, 0.05, 0.07)
    return np.where(is_hit, random.random(image.shape) < 0.5, image)


def speckle_noise(image: Array, strength: int, random: np.random.Generator) -> Array:
    """Normal noise proportional to the brightness."""
    scale = at(strength, 0.06, 0.1, 0.12, 0.16, 0.2)
    return image * (1 + random.normal(scale=scale, size=image.shape))
