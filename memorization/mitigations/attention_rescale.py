"""More attention to the begin token, none to padding."""

from typing import TYPE_CHECKING

from attn_utils import CrossAttentionEdit
from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.needs import CROSS_ATTENTION
from memorization.released import SD1, SD2

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

RELEASED = {"strength": 0.25, "c1": 1.25}


@mitigation(
    "attention_rescale",
    knob="begin token's logit times 1 + strength",
    source="Ren et al., ECCV 2024",
    largest=1,
    sweep=(0.1, 0.25, 0.5, 0.75, 1),
    reads="attention",
    released={SD1: RELEASED, SD2: RELEASED},
    revision=2,
    needs=(CROSS_ATTENTION,),
)
def rescaled_attention(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """More attention to the begin token, none to padding.

    As released: what lies behind the prompt's end token is hidden in the empty prompt's branch too, at the same
    places; the begin token is scaled in the prompt's branch alone.
    """
    padding = images.padding(pipe.tokenizer.model_max_length)
    edits = [CrossAttentionEdit(branch=0, hidden=padding), CrossAttentionEdit(scale_begin=1 + strength, hidden=padding)]
    return always_acting(pipe, options, images, edits=edits)
