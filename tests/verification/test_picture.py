"""The test picture is the same everywhere, and like a photograph in the respects that matter to a tokenizer."""

from __future__ import annotations

import hashlib

import numpy as np

from nextscale.verification.picture import lakeside


def test_the_picture_is_always_the_same() -> None:
    once, again = lakeside(64), lakeside(64)
    assert once.mode == "RGB"
    assert hashlib.sha256(once.tobytes()).digest() == hashlib.sha256(again.tobytes()).digest()


def test_its_spectrum_falls_like_that_of_photographs() -> None:
    """Their amplitude falls about as 1 / frequency; noise stays level, and a gradient falls much faster."""
    grey = np.asarray(lakeside(256).convert("L"), np.float64)
    window = np.hanning(256)[:, None] * np.hanning(256)
    amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * window))
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256))
    rings = [(0.01 * 2**i, 0.01 * 2 ** (i + 1)) for i in range(5)]
    means = [amplitude[(frequency >= low) & (frequency < high)].mean() for low, high in rings]
    slope = np.polyfit([np.log(low) for low, _ in rings], np.log(means), 1)[0]
    assert -1.8 < slope < -0.8
    assert grey.std() > 40
