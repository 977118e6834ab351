"""Value neurons of the cross-attention: what they do on a prompt and on ordinary captions, and switching them off.

A neuron is a channel of a layer's value vectors. They are made from the text alone, so that what they do needs no UNet
evaluation. The layers are those of the down and mid blocks, in their order: seven in Stable Diffusion.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch

from attn_utils import cross_attention_layers
from memorization.errors import InputError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from local_sd_pipeline import DenoisingPipeline

CHUNK = 64  # captions at a time


def value_layers(unet: "UNet2DConditionModel") -> dict[str, torch.nn.Linear]:
    """Linear layers that make the values, by the names of `cross_attention_layers`.

    Raises:
        InputError: if the UNet has none in its down and mid blocks.
    """
    modules = dict(unet.named_modules())
    names = [n for n in cross_attention_layers(unet) if n.startswith(("down_blocks", "mid_block"))]
    if not names:
        raise InputError("this UNet has no cross-attention in its down and mid blocks, whose value neurons are meant")
    return {name: cast(torch.nn.Linear, modules[name.removesuffix(".processor")].to_v) for name in names}


def activations(layer: torch.nn.Linear, text: torch.Tensor) -> torch.Tensor:
    """Mean over all tokens, padding included, of a value's size; float32 (prompts, channels).

    Args:
        text: features, (prompts, tokens, dim).
    """
    return torch.cat([layer(some).float().abs().mean(1) for some in text.split(CHUNK)])


@torch.no_grad()
def deviations(pipe: "DenoisingPipeline", ordinary: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
    """How far each neuron is from what it does on ordinary captions, in their standard deviations, whichever the side.

    Args:
        ordinary: features of ordinary captions, (captions, tokens, dim).
        text: features of prompts, (prompts, tokens, dim).

    Returns:
        float32 tensors (prompts, channels) by layer.

    Raises:
        InputError: if there are fewer than two ordinary captions.
    """
    if len(ordinary) < 2:
        raise InputError(f"neurons are compared with ordinary captions, of which two are needed, not {len(ordinary)}")
    found = {}
    ordinary, text = pipe.token_rows(ordinary), pipe.token_rows(text)
    for name, layer in value_layers(pipe.unet).items():
        usual = activations(layer, ordinary)
        found[name] = (activations(layer, text) - usual.mean(0)).abs() / usual.std(0)
    return found


@contextmanager
def values_scaled(unet: "UNet2DConditionModel", factors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Value vectors multiplied in every branch of a UNet call for the block.

    Args:
        factors: by layer, (images, channels), or (1, channels) for all images alike.
    """
    layers, handles = value_layers(unet), []
    for name, factor in factors.items():

        def scale(module: torch.nn.Module, inputs: tuple, output: torch.Tensor, factor: torch.Tensor = factor):
            branches = len(output) // len(factor)
            return output * factor.to(output).repeat(branches, 1)[:, None]

        handles.append(layers[name].register_forward_hook(scale))
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()
