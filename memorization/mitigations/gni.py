"""Gaussian noise on the text embeddings."""

from typing import TYPE_CHECKING

from memorization.mitigations.base import Flags, mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.released import SD1, SD2
from memorization.seeds import derived_seed
from optim_utils import add_embedding_noise

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

RELEASED = {"strength": 0.1}


def flags_of_gni(scale: float) -> Flags:
    return {"rand_noise_lam": scale}


@mitigation(
    "gni",
    knob="scale of the noise",
    source="Somepalli et al., NeurIPS 2023",
    sweep=(0.1, 0.2, 0.3, 0.6, 1),
    bundled_sweep=(0.3, 0.6, 1, 1.5, 2),
    flags=flags_of_gni,
    released={SD1: RELEASED, SD2: RELEASED},
    revision=2,
)
def embedding_noise(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Adds Gaussian noise to the embeddings of the prompt and of the empty prompt.

    As released: independent noise on every element of both. An image's depends on its seed alone, by another
    generator than its starting noise.
    """
    seeds = [derived_seed(seed, "gni") for seed in images.seeds]
    branches = add_embedding_noise([images.negatives(), images.embeds()], strength, seeds)
    return always_acting(pipe, options, images, branches=branches)
