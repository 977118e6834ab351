"""The maps that localisation compares: attention to the end token, noise_diff^2, their products, and two controls."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from attn_utils import shuffle_mask
from memorization.errors import InputError
from memorization.files.maps import DIFF_MAPS, END, FOUND, PADDING

BRIGHT_ENDING, WITH_PADDING = "bright ending", "end token + padding"
DIFF = "noise_diff^2"
ALL_STEPS, LAST_STEP = f"{DIFF}, all steps", f"{DIFF}, last step"
ALL_ONES, SHUFFLED, PRODUCT = "all ones", f"{BRIGHT_ENDING}, shuffled", f"{BRIGHT_ENDING} x {ALL_STEPS}"
FIRST_STEPS = (1, 10)  # of noise_diff^2 that are averaged, besides all
PROCESSOR_SUFFIX = ".transformer_blocks.0.attn2.processor"
JOINT_SUFFIX = ".attn.processor"


def candidate_maps(arrays: Mapping[str, np.ndarray], seeds: Sequence[int]) -> dict[str, torch.Tensor]:
    """Every map that is compared, by name, each float32 (images, height, width) at the latent's size.

    Args:
        arrays: content of a map file.
        seeds: of the images, for the shuffled control.

    Raises:
        InputError: if the file holds no layer that the mask is read from.
    """
    diff = torch.from_numpy(arrays[DIFF_MAPS])
    size = (diff.shape[-2], diff.shape[-1])
    ends, padding, others = (resized_maps(arrays, prefix, size) for prefix in (END, PADDING, FOUND))
    finest = mask_layers(ends)
    mask = torch.stack([ends[name] for name in finest]).mean(0)
    maps = {BRIGHT_ENDING: mask, WITH_PADDING: torch.stack([ends[name] + padding[name] for name in finest]).mean(0)}
    maps |= {f"end token, {layer_name(name)}": values for name, values in ends.items()}
    maps |= {f"{DIFF}, first {t}": diff[:, :t].mean(1) for t in FIRST_STEPS if t < diff.shape[1]}
    maps |= {ALL_STEPS: diff.mean(1), LAST_STEP: diff[:, -1]}
    maps |= {f"{BRIGHT_ENDING} x {name}": mask * maps[name] for name in (ALL_STEPS, LAST_STEP)}
    maps |= {name.replace("_", " "): values for name, values in others.items()}
    maps |= {ALL_ONES: torch.ones_like(mask), SHUFFLED: shuffle_mask(mask.unsqueeze(1), seeds).squeeze(1)}
    return maps


def resized_maps(arrays: Mapping[str, np.ndarray], prefix: str, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Maps whose names begin with a prefix, without it, each (images, height, width) at a size."""
    return {name.removeprefix(prefix): resize(a, size) for name, a in arrays.items() if name.startswith(prefix)}


def resize(maps: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Maps (images, h, w) interpolated to a size."""
    tensor = torch.from_numpy(maps)
    if tensor.shape[-2:] == size:
        return tensor
    return F.interpolate(tensor.unsqueeze(1), size=size, mode="bilinear").squeeze(1)


def mask_layers(names: Iterable[str]) -> list[str]:
    """Layers of the finest down block that has cross-attention, where the published mask is read; of a transformer all.

    Raises:
        InputError: if no layer is of either.
    """
    names = list(names)
    blocks = sorted(n.split(".attentions")[0] for n in names if n.startswith("down_blocks."))
    beginning, ending = (f"{blocks[0]}.", "") if blocks else ("", JOINT_SUFFIX)
    layers = [n for n in names if n.startswith(beginning) and n.endswith(ending)]
    if not layers:
        raise InputError("the map files hold no layer of a down block; they are of another version")
    return layers


def layer_name(name: str) -> str:
    """A layer's name as people write it: down_blocks.0.attentions.1."""
    return name.removesuffix(PROCESSOR_SUFFIX).removesuffix(JOINT_SUFFIX)
