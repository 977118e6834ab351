"""Plain numbers of what an image looks like, without a network: saturation, contrast, spectrum. One per image.

They say nothing alone: a poster has more contrast than a photograph. What counts is how they differ from ordinary
generations of the same model.
"""

import numpy as np

SATURATED = 1  # levels within 0 or 255 that a value counts as saturated at: decoders round
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue, ITU-R BT.601
RINGS = 8  # of the spectrum, of equal width up to half a cycle per pixel
ROUNDING = np.float32(1 / 12 / 255**2)  # power of rounding to whole levels, the least that there is


def saturated_share(images: np.ndarray) -> np.ndarray:
    """Share of pixel values at most `SATURATED` levels from 0 or 255, float32 (images,); higher = blown out.

    Args:
        images: uint8 (images, height, width, 3).
    """
    found = (images <= SATURATED) | (images >= 255 - SATURATED)
    return found.mean((1, 2, 3), dtype=np.float32)


def luma(images: np.ndarray) -> np.ndarray:
    """Brightness of uint8 images (images, height, width, 3), float32 (images, height, width) in [0, 1]."""
    return images.astype(np.float32) @ LUMA / 255


def contrast(images: np.ndarray) -> np.ndarray:
    """Standard deviation of the luma in [0, 1], float32 (images,): 0 is one grey, 0.5 half black and half white."""
    return luma(images).std((1, 2))


def log_spectrum(images: np.ndarray) -> np.ndarray:
    """Power of the luma by frequency in decibels, float32 (images, rings).

    The luma without its mean, both under a Hann window (a picture's opposite edges do not meet), normalised so that
    white noise has its variance at every frequency; ten times the decimal logarithm, averaged over `RINGS` rings of
    equal width from 0 to half a cycle per pixel, so that images of other sizes compare. What is below rounding is put
    at that.

    Args:
        images: uint8 (images, height, width, 3).

    Raises:
        ValueError: if the images are too small to have a frequency in every ring.
    """
    height, width = images.shape[1:3]
    rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    radius = np.sqrt(rows[:, None] ** 2 + columns**2)
    ring = np.ceil(radius * 2 * RINGS - 1e-9).astype(int) - 1  # -1 is the mean
    inside = (ring >= 0) & (ring < RINGS)
    counts = np.bincount(ring[inside], minlength=RINGS)
    if not counts.all():
        raise ValueError(f"images of {height} x {width} pixels are too small for a spectrum of {RINGS} rings")
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    values = luma(images)
    values = (values - (values * window).sum((1, 2), keepdims=True) / window.sum()) * window
    power = np.abs(np.fft.rfft2(values)) ** 2 / (window**2).sum()
    decibels = 10 * np.log10(np.maximum(power, ROUNDING))[:, inside]
    return np.stack([np.bincount(ring[inside], line, RINGS) / counts for line in decibels]).astype(np.float32)


def spectrum_distance(spectra: np.ndarray, ordinary: np.ndarray) -> np.ndarray:
    """Root mean squared difference of spectra to that of ordinary images, in decibels, (images,); 0 = the same.

    Args:
        spectra: of `log_spectrum`, (images, rings).
        ordinary: mean of those of ordinary images, (rings,).
    """
    return np.sqrt(((spectra - ordinary) ** 2).mean(1))
