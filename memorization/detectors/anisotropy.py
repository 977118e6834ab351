"""Anisotropy: D at high noise plus the alignment of the guidance with the unconditional prediction at low noise."""

import torch
import torch.nn.functional as F

from memorization.detectors.base import detector
from memorization.needs import NOISE
from memorization.released import SD1, SD1_NUMEL, SD2, SD2_NUMEL, family_of, size_scale
from memorization.trace import Trace
from noise_norms import noise_diff_norm

LOW_NOISE = -3  # of the timesteps: where the initial noise is looked at a second time
RELEASED = {SD1: {"gamma": 2.0}, SD2: {"gamma": 0.1}}
NUMEL = {SD1: SD1_NUMEL, SD2: SD2_NUMEL}  # of the latents that gamma was chosen on


@detector(
    "anisotropy",
    keys={
        "anisotropy": "anisotropy",
        "anisotropy_cosine": "anisotropy_cosine",
        "anisotropy_noise": "anisotropy of the noise",
    },
    source="Asthana and Belagiannis, ICLR 2026",
    steps=1,
    cost=(2, 0),
    released=RELEASED,
    revision=2,
    needs=(NOISE,),
)
def anisotropy(trace: Trace) -> dict[str, torch.Tensor]:
    """D at the first step plus gamma times the cosine of the unconditional prediction and the guidance at low noise.

    Asthana and Belagiannis (ICLR 2026): both on the SAME initial noise, the cosine at the third last timestep. It is
    that of the channel vectors, averaged over positions. gamma is 2 for Stable Diffusion 1 at 512 pixels and 0.1 for 2
    at 768, chosen on 20 memorized prompts by them; it is scaled with the root of the latent's number of elements, as D
    is, which the cosine is not.

    anisotropy, anisotropy_cosine: as released. For v-prediction their code takes the cosine of v instead of the noise,
    and D over 1 - alphas_cumprod. anisotropy_noise: of the predicted noise whatever the model predicts, as the paper
    has it; the same for models that predict noise. Costs two evaluations per image.
    """
    pipe, step = trace.pipe, trace.steps[0]
    pipe.scheduler.set_timesteps(trace.num_inference_steps)
    low = int(pipe.scheduler.timesteps[max(LOW_NOISE, -trace.num_inference_steps)])
    prediction = pipe.predict_noise(step.latents, low, trace.embeds)
    uncond, text = prediction.outputs
    cosine, of_noise = mean_cosine(uncond, text - uncond), mean_cosine(prediction.noise(0), prediction.diff())
    family = family_of(trace.embeds[0].shape[-1])
    gamma = RELEASED[family]["gamma"] * size_scale(step.latents, NUMEL[family])
    norm = released_norm = noise_diff_norm(step.noise_diff)
    if pipe.scheduler.config.prediction_type == "v_prediction":
        released_norm = norm / (1 - pipe.scheduler.alphas_cumprod[step.timestep].float())
    return {
        "anisotropy": released_norm + gamma * cosine,
        "anisotropy_cosine": cosine,
        "anisotropy_noise": norm + gamma * of_noise,
    }


def mean_cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine of the channel vectors of (images, channels, height, width), averaged over positions: (images,)."""
    return F.cosine_similarity(a.float(), b.float(), dim=1).mean((1, 2))
