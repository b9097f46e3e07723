"""A picture to test with, drawn here and so free of anybody's rights: a lake under mountains, like a photograph in what
a tokenizer notices: smooth and rough areas, sharp and soft edges, haze, a reflection, grain, and a 1/f spectrum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]

SEED = 7
IMAGENET_CLASS = 975  # lakeside


def lakeside(side: int = 512) -> Image.Image:
    """The picture, ``side`` pixels square; the same numbers give the same picture on every machine."""
    random = np.random.Generator(np.random.Philox(SEED))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    clouds = _blurred(random, side, 1.7)
    pixels = _between((0.33, 0.52, 0.80), (0.88, 0.90, 0.92), np.clip(1.6 * y, 0, 1))
    pixels = _between(pixels, (1.0, 0.99, 0.97), np.clip(2.2 * clouds - 0.9, 0, 0.9) * (1 - y))
    for far, (base, height) in enumerate([(0.42, 0.34), (0.53, 0.26), (0.60, 0.16)]):
        ridge = base - height * _blurred(random, side, 1.9 - 0.15 * far)[0] + 0.04 * np.sin(9 * x[0] + far)
        rough = _blurred(random, side, 0.8 + 0.1 * far)
        rock = _between((0.16, 0.22, 0.17), (0.55, 0.50, 0.44), rough)
        snow = np.clip(12 * (ridge.min() + 0.16 - y) + 5 * (rough - 0.5), 0, 1) * (far == 0)
        rock = _between(rock, (0.95, 0.96, 0.98), snow)
        rock = _between(rock, (0.70, 0.77, 0.86), np.full_like(y, 0.55 - 0.25 * far))  # the farther, the hazier
        pixels = _between(pixels, rock, np.clip((y - ridge) * side, 0, 1))
    shore = round(0.64 * side)
    depth = np.minimum(2 * shore - np.arange(shore, side), shore - 1) % side
    ripples = 0.012 * np.sin(900 * (y[shore:] - 0.6) ** 1.2 + 4 * _blurred(random, side, 1.3)[shore:])
    column = np.clip(((x[shore:] + ripples) * side).astype(int), 0, side - 1)
    water = pixels[depth[:, None], column]
    pixels[shore:] = _between(water, (0.10, 0.22, 0.25), np.full((side - shore, side), 0.35, np.float32))
    pixels *= (0.85 + 0.15 * np.clip(2 - 2.2 * np.hypot(x - 0.5, y - 0.5), 0, 1))[..., None]
    pixels += 0.012 * random.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


def _blurred(random: np.random.Generator, side: int, power: float) -> Field:
    """Noise (side, side) in [0, 1] whose amplitude falls as 1 / frequency ** power."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequency[0, 0] = 1
    noise = np.fft.irfft2(np.fft.rfft2(random.standard_normal((side, side))) / frequency**power, (side, side))
    noise -= noise.min()
    return (noise / noise.max()).astype(np.float32)


def _between(a: object, b: object, share: Field) -> Field:
    """(side, side, 3): from ``a`` at share 0 to ``b`` at 1; each is a colour or a picture."""
    s = share[..., None]
    return np.asarray(a, np.float32) * (1 - s) + np.asarray(b, np.float32) * s
