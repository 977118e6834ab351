"""Random tokens in the prompt."""

from typing import TYPE_CHECKING

from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, plain_generation
from memorization.mitigations.perturb import adding_words

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


@adding_words("rt", "rand_word_add")
def random_tokens(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Adds the text of random tokens to the prompt.

    The tokens are any of the tokenizer's first 49,400, whole words or not; a smaller vocabulary is drawn from whole.
    The batch holds the changed prompts already.
    """
    return plain_generation(pipe, options, images)
