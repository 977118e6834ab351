"""Random numbers in the prompt."""

from typing import TYPE_CHECKING

from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, plain_generation
from memorization.mitigations.perturb import adding_words

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


@adding_words("rna", "rand_numb_add")
def random_numbers(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Adds random numbers below 100,000 to the prompt.

    The batch holds the changed prompts already.
    """
    return plain_generation(pipe, options, images)
