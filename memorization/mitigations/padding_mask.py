"""Part of the padding masked."""

from typing import TYPE_CHECKING

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.needs import TOKENS
from memorization.released import SD1, SD2

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

RELEASED = {"strength": 0.7}


@mitigation(
    "padding_mask",
    knob="share of the padding that is masked",
    source="Kim and No, CVPR 2026 Findings",
    largest=1,
    sweep=(0.2, 0.4, 0.6, 0.7, 1),
    released={SD1: RELEASED, SD2: RELEASED},
    needs=(TOKENS,),
)
def masked_padding(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Masks part of the padding, the first behind the end token.

    As released: a masked embedding is one of zeros, which still takes attention; the number of them is rounded down.
    The release's commands have 0.7 and 0.4.
    """
    text, length = images.embeds(), pipe.tokenizer.model_max_length
    for row, end in enumerate(images.end_tokens):
        masked = int((length - (end + 1)) * strength)
        text[row, end + 1 : end + 1 + masked] = 0
    return always_acting(pipe, options, images, text=text)
