"""Words of the prompt repeated."""

from typing import TYPE_CHECKING

from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, plain_generation
from memorization.mitigations.perturb import adding_words

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


@adding_words("cwr", "rand_word_repeat")
def repeated_words(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Repeats words of the prompt.

    Each is drawn from the prompt as it was. The batch holds the changed prompts already.
    """
    return plain_generation(pipe, options, images)
