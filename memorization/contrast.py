"""Extraction by contrast: what tuning added, made larger by guidance away from the model before tuning.

FineXtract (Wu et al., ICML 2025) extracts the pictures of a fine-tune so. It is an attack, no mitigation: it shows what
plain generation does not give of what the weights hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from memorization.errors import InputError
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, denoise_with
from memorization.mitigations.options import CONTRAST
from memorization.needs import GUIDANCE, refuse_undefined

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline
    from noise_norms import NoisePrediction

TUNED_SCALE, LORA_SCALE = 3.0, 5.0  # released for DreamBooth and for LoRAs
BRANCHES = 3  # two of the tuned model, as D is measured at the first step, and the base's


@dataclass(frozen=True)
class ContrastGuidance:
    """Guidance from the base's unconditional prediction to the tuned model's of the prompt, and beyond it.

    Attributes:
        base: the model before tuning.
        negatives: its features of the empty prompt, (images, rows, dim).
        timesteps: of the steps that follow, one a call.
        scale: at 1 the tuned model's prediction of the prompt alone; higher = further away from the base.
    """

    base: "DenoisingPipeline"
    negatives: torch.Tensor
    timesteps: Iterator[float]
    scale: float

    def __call__(self, prediction: "NoisePrediction") -> torch.Tensor:
        (before,) = self.base.predict_outputs(prediction.latents, next(self.timesteps), (self.negatives,))
        return before + self.scale * (prediction.outputs[1] - before)


def refuse_contrast(pipe: "DenoisingPipeline") -> None:
    """
    Raises:
        InputError: if there is nothing to contrast the model with, or guidance is in its predictions already.
    """
    if pipe.base is None:
        raise InputError("contrast is with the model before it was tuned: give it by --base_model_id")
    refuse_undefined(CONTRAST, (GUIDANCE,), pipe)


def generate_by_contrast(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, scale: float
) -> Mitigated:
    """Images by contrast with `pipe.base`, by the same loop as all others; takes three evaluations a step.

    The correction that was released beside the scale, -0.02 of the base's prediction for full fine-tunes, is left out.

    Args:
        scale: see `ContrastGuidance`; `options.guidance_scale` has no effect.
    """
    assert pipe.base is not None
    timesteps = pipe.set_timesteps(options.num_inference_steps, images.latents)
    pipe.base.set_timesteps(options.num_inference_steps, images.latents)
    negatives = pipe.base.encode([""])[1].expand(len(images), -1, -1)
    guidance = ContrastGuidance(pipe.base, negatives, iter(timesteps), scale)
    final, magnitudes = denoise_with(pipe, options, images, guidance=guidance)
    pipe.num_unet_evals += options.num_inference_steps * len(images)  # which the base counted as its own
    return Mitigated(
        final,
        magnitude_before=magnitudes,
        magnitude_after=magnitudes,
        triggered=[True] * len(images),
        unet_evals=[BRANCHES * options.num_inference_steps] * len(images),
    )
