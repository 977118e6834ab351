"""Files of localisation maps: one npz per prompt, written by detect_mem.py --store_maps.

Arrays are float16: `noise_diff_maps` (images, steps, height, width), channel-summed squares of the noise
difference; `end.LAYER` and `padding.LAYER` (images, height, width), attention at the last step to the end
token and to everything behind it. Of joint attention these are over what all text gets, and `raw.TOKEN.LAYER` is
what each end token (`clip_end`, `t5_end`) and all text together (`text`) got. On Stable Diffusion v1 an image takes
0.6 MB, nine tenths of it the steps.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from memorization.errors import InputError
from memorization.files.npz import READ_ERRORS
from memorization.files.whole import replacing

DIFF_MAPS = "noise_diff_maps"
END, PADDING, RAW, FOUND = "end.", "padding.", "raw.", "map."  # what names of the other arrays begin with in a file


def save_maps(
    path: Path,
    diff_maps: np.ndarray,
    end: Mapping[str, np.ndarray],
    padding: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    raw: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> None:
    """Write the maps of one prompt as float16, through a temporary file.

    Args:
        diff_maps: (images, steps, height, width).
        end, padding: attention of the last step by layer, (images, height, width).
        found: maps that detectors made on the way, by name.
        raw: of joint attention, by token and layer.
    """
    arrays = {DIFF_MAPS: diff_maps}
    for prefix, maps in ((END, end), (PADDING, padding), (RAW, raw), (FOUND, found)):
        arrays |= {prefix + name: array for name, array in maps.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        half = {name: np.asarray(a, np.float16) for name, a in arrays.items()}
        np.savez_compressed(file, **half)  # type: ignore[arg-type]  # names are none of its options


def load_maps(path: Path, num_images: int) -> dict[str, np.ndarray]:
    """All arrays of a file in float32.

    Raises:
        InputError: if it is missing, damaged, or of another number of images.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in file.files}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; run detect_mem.py with --store_maps") from error
    except (*READ_ERRORS, AttributeError) as error:
        raise InputError(f"{path} is not a readable npz file of maps; run detect_mem.py again") from error
    if DIFF_MAPS not in arrays or any(a.shape[:1] != (num_images,) for a in arrays.values()):
        counts = {name: len(a) if a.ndim else a for name, a in arrays.items()}
        raise InputError(f"{path} does not hold maps of {num_images} images but {counts}; run detect_mem.py again")
    broken = next((name for name, a in arrays.items() if not are_maps(name, a)), None)
    if broken is not None:
        raise InputError(f"{path}: {broken} is not maps of attention or noise; run detect_mem.py again")
    return arrays


def are_maps(name: str, array: np.ndarray) -> bool:
    """Whether an array of a file can be maps: finite, and of as many dimensions as those of this name."""
    dimensions = 4 if name == DIFF_MAPS else 3
    return array.ndim == dimensions and array.size > 0 and bool(np.isfinite(array).all())
