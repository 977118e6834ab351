"""Hyper-parameters that a method was released with, by family of models, and how they follow the latent's size.

They are kept in the records of detectors and mitigations under the names that their sources use, and `strength` is
what the method's own knob is there.
"""

from collections.abc import Mapping

import torch

SD1, SD2 = "SD 1", "SD 2"
SD2_TEXT_WIDTH = 1024
SD1_NUMEL = 4 * 64 * 64  # of a latent of Stable Diffusion 1, and of 2 at 512 pixels
SD2_NUMEL = 4 * 96 * 96  # of Stable Diffusion 2 at 768 pixels

Released = Mapping[str, Mapping[str, float]]


def family_of(text_width: int) -> str:
    """The family whose released hyper-parameters a model takes: by the width of its text features."""
    return SD2 if text_width == SD2_TEXT_WIDTH else SD1


def released_for(released: Released, embeds: torch.Tensor) -> Mapping[str, float]:
    """The hyper-parameters for the model that made these text features, (..., dim)."""
    return released[family_of(embeds.shape[-1])]


def size_scale(latents: torch.Tensor, numel: int) -> float:
    """By how much the norm of noise differs between these latents (images, ...) and ones of `numel` elements.

    A hyper-parameter that is a length in latent space was chosen at one size and is multiplied by this at another.
    """
    return float((latents[0].numel() / numel) ** 0.5)


def released_strength(released: Released) -> float | None:
    """The released value of the knob; None where there is none, or where it differs by family."""
    found = {values.get("strength") for values in released.values()}
    return found.pop() if len(found) == 1 else None


def released_text(released: Released) -> str:
    """As tables have it: `SD 1: lr 0.05, weight 0.05; SD 2: lr 0.05, weight 0.01`, once where all agree."""
    texts = {family: values_text(values) for family, values in released.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{family}: {text}" for family, text in texts.items())


def values_text(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
