"""How complex a picture is: simple pictures are more alike to begin with, and are copied more (Somepalli et al.).

"Diffusion Art or Digital Forgery?" (CVPR 2023) and "Understanding and Mitigating Copying" (NeurIPS 2023). Sizes and
differences depend on a picture's resolution, so all are looked at as squares of one size.
"""

import io

import numpy as np
from PIL import Image, ImageOps
from scipy import stats

SIDE = 256  # pixels
QUALITY = 75  # of the JPEG
MEASURES = {
    "entropy": "grey entropy, bits",
    "jpeg_size": "JPEG size, kB",
    "total_variation": "total variation",
    "mixed": "entropy x sqrt(JPEG size)",
}


def complexity(picture: np.ndarray) -> dict[str, float]:
    """The numbers of `MEASURES` of a picture, uint8 (height, width, 3); higher = more complex.

    It is cropped at the centre and resized to `SIDE` x `SIDE`.
    """
    image = ImageOps.fit(Image.fromarray(picture), (SIDE, SIDE), Image.Resampling.BICUBIC)
    grey = np.asarray(image.convert("L"))
    entropy, size = grey_entropy(grey), jpeg_size(image) / 1000
    variation = total_variation(grey.astype(np.float32) / 255)
    return {"entropy": entropy, "jpeg_size": size, "total_variation": variation, "mixed": entropy * size**0.5}


def grey_entropy(grey: np.ndarray) -> float:
    """Shannon entropy in bits of the levels of a grey picture, uint8 (height, width); 0 of a plain one."""
    return float(stats.entropy(np.bincount(grey.reshape(-1), minlength=256), base=2))


def jpeg_size(image: Image.Image) -> int:
    """Bytes of the picture as a JPEG of quality `QUALITY`."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.tell()


def total_variation(grey: np.ndarray) -> float:
    """Mean absolute difference of neighbours across plus that of neighbours down, of floats (height, width)."""
    return float(np.abs(np.diff(grey, axis=1)).mean() + np.abs(np.diff(grey, axis=0)).mean())
