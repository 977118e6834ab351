"""Other padding, and the end token masked."""

from typing import TYPE_CHECKING

import torch

from memorization.errors import InputError
from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.needs import ONE_ENCODER
from memorization.released import SD1, SD2

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

PADDING = "!"  # the token within a word, not the word: id 0 of CLIP's tokenizer
RELEASED = {"strength": 1}


@mitigation(
    "padding_fix",
    knob="none published: 1 is as released",
    source="Kim and No, CVPR 2026 Findings",
    largest=1,
    sweep=(1,),
    whole=True,
    reads="words",
    released={SD1: RELEASED, SD2: RELEASED},
    revision=2,
    needs=(ONE_ENCODER,),
)
def other_padding(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Pads with "!" instead of the end token, and masks the end token.

    As released: a masked embedding is one of zeros, which still takes attention, and the empty prompt is padded with
    "!" too, with its end token let be. Stable Diffusion 2 pads with "!" anyway.
    """
    device = images.latents.device
    text = torch.cat([encode_padded(pipe, prompt, PADDING, device) for prompt in images.prompts])
    rows = torch.arange(len(images), device=device)
    text[rows, list(images.end_tokens)] = 0
    negatives = encode_padded(pipe, "", PADDING, device).expand(len(images), -1, -1)
    return always_acting(pipe, options, images, branches=[negatives, text])


@torch.no_grad()
def encode_padded(pipe: "DenoisingPipeline", prompt: str, padding: str, device: torch.device) -> torch.Tensor:
    """Text features of a prompt with another token behind its end token, (1, tokens, dim).

    Raises:
        InputError: if the model has no such token.
    """
    tokenizer, length = pipe.tokenizer, pipe.tokenizer.model_max_length
    if padding not in tokenizer.get_vocab():
        raise InputError(f"this model's tokenizer has no token {padding!r} to pad with; use another --method")
    ids = pipe.token_ids(prompt)
    padded = ids + [tokenizer.convert_tokens_to_ids(padding)] * (length - len(ids))
    return pipe.text_encoder(torch.tensor([padded], device=device))[0].to(pipe.denoiser.dtype)
