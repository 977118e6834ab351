"""How gradients and tangents are taken through the UNet: of as many images at a time as fit into the memory that is
free, and through attention that has a forward derivative.

A gradient keeps what every layer of the UNet saw, which is many times what a generation needs. So whatever takes one
works through its images in chunks of its own, while the generation keeps its batch. All of it is per image: the size of
a chunk changes no result beyond its rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from attn_utils import wrapped_processors

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from local_sd_pipeline import DenoisingPipeline

SHARE = 0.5  # of the free memory that a chunk may take, as pictures are decoded beside it
MARGIN = 1.5  # on what one forward pass keeps, for what the backward pass holds besides
CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)  # files of a container's limit, its use, and the entry of memory.stat that can be had back: version 2, and 1
HALF_SCALE = 2.0**12
STANDARD_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0")

# Bytes that a pass of one sample keeps, by the UNet and the sample's shape: each is measured once.
kept_by_denoiser: "WeakKeyDictionary[torch.nn.Module, dict[tuple, int]]" = WeakKeyDictionary()


def in_chunks(
    pipe: "DenoisingPipeline",
    latents: torch.Tensor,
    samples: int,
    work: Callable[[slice], torch.Tensor],
) -> torch.Tensor:
    """What `work` makes of all images, computed for as many at a time as fit.

    Args:
        latents: what the gradients are taken at, (images, channels, height, width).
        samples: of the UNet, that a gradient of one image goes through.
        work: from the places of some images to a tensor with a row for each.
    """
    size = chunk_size(pipe, latents, samples)
    return torch.cat([work(slice(k, k + size)) for k in range(0, len(latents), size)])


def chunk_size(pipe: "DenoisingPipeline", latents: torch.Tensor, samples: int) -> int:
    """How many images a gradient is taken of at a time: `pipe.grad_batch_size`, or as many as fit, at least one.

    A chunk may take half of the free memory. An image is taken to need 1.5 times what the forward passes of its samples
    keep for the backward pass, which is measured once for a UNet and a size of latents.

    Args:
        latents: (images, channels, height, width).
        samples: of the UNet, that a gradient of one image goes through.
    """
    if pipe.grad_batch_size is not None:
        return pipe.grad_batch_size
    free = free_bytes(latents.device)
    if free is None or len(latents) == 1:
        return max(1, len(latents))
    return max(1, int(SHARE * free / (MARGIN * samples * kept_bytes(pipe, latents))))


def kept_bytes(pipe: "DenoisingPipeline", latents: torch.Tensor) -> int:
    """Bytes that the UNet's forward pass of one sample keeps for its backward pass; the pass is not counted as cost.

    Args:
        latents: of the size that counts, (images, channels, height, width).
    """
    denoiser, key = pipe.denoiser, (tuple(latents.shape[1:]), pipe.denoiser.dtype, latents.device)
    known = kept_by_denoiser.setdefault(denoiser, {})
    if key not in known:
        known[key] = measure_kept_bytes(pipe, latents)
    return known[key]


def measure_kept_bytes(pipe: "DenoisingPipeline", latents: torch.Tensor) -> int:
    weights = {p.untyped_storage().data_ptr() for p in pipe.denoiser.parameters()}
    kept: dict[int, int] = {}  # by storage, as layers share what they keep

    def keep(saved: torch.Tensor) -> torch.Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    text = torch.zeros_like(pipe.encode([""])[1], dtype=pipe.denoiser.dtype, device=latents.device)
    evals = pipe.num_unet_evals
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        sample = torch.zeros_like(latents[:1], dtype=text.dtype).requires_grad_()
        output = pipe.predict_outputs(sample, 0, (text.requires_grad_(),))
    pipe.num_unet_evals = evals
    del output  # until here nothing that was kept could be freed and its place be taken by something else
    return max(1, sum(kept.values()))


def loss_scale(dtype: torch.dtype) -> float:
    """What a loss is multiplied with before its gradient is taken, and the gradient divided by, in float32.

    In float16 most of the gradient of a norm is too small to be told from 0 where the latents are large; a power of two
    changes nothing else.
    """
    return HALF_SCALE if dtype == torch.float16 else 1.0


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had on a device; None where nothing says how much."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "cpu":
        found = [n for n in (available_memory(), container_memory()) if n is not None]
        return min(found, default=None)
    return None


def available_memory(path: Path = Path("/proc/meminfo")) -> int | None:
    """What Linux says is available, in bytes."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else 1024 * int(found)


def container_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container may still take, in bytes; files in its cache count as free."""
    for limit, usage, cache in CGROUPS:
        try:
            most, used = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, usage))
            statistics = ((folder / limit).parent / "memory.stat").read_text(encoding="ascii").split()
        except OSError:
            continue
        if most.isdecimal() and cache in statistics:
            return int(most) - int(used) + int(statistics[statistics.index(cache) + 1])
    return None


class OpenAttention:
    """Attention processor that computes head by head in plain matrix products, which have a forward derivative.

    The fast kernels have none, and to switch them off is a matter of the whole process, where another thread may be
    decoding pictures.
    """

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *args, **kwargs):
        """
        Raises:
            ValueError: if the layer normalises its inputs in ways that Stable Diffusion 1.x and 2.x do not.
        """
        if attn.group_norm is not None or attn.spatial_norm is not None or attn.norm_cross:
            raise ValueError("this attention layer is not that of a Stable Diffusion 1.x or 2.x UNet")
        tokens = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        layers = ((attn.to_q, hidden_states), (attn.to_k, tokens), (attn.to_v, tokens))
        query, key, value = (to(x).unflatten(2, (attn.heads, -1)) for to, x in layers)
        precise = torch.promote_types(query.dtype, torch.float32)
        heads = []
        for h in range(attn.heads):
            logits = attn.scale * query[:, :, h].to(precise) @ key[:, :, h].to(precise).transpose(1, 2)
            heads.append(logits.softmax(-1).to(value.dtype) @ value[:, :, h])
        out = attn.to_out[1](attn.to_out[0](torch.cat(heads, 2)))
        out = out + hidden_states if attn.residual_connection else out
        return out / attn.rescale_output_factor


@contextmanager
def open_attention(unet: "UNet2DConditionModel") -> Iterator[None]:
    """The UNet's attention computed by `OpenAttention` for the block; layers with a processor of their own keep it."""
    standard = [n for n, p in unet.attn_processors.items() if type(p).__name__ in STANDARD_PROCESSORS]
    with wrapped_processors(unet, standard, lambda inner, name: OpenAttention()):
        yield
