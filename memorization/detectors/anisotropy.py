"""Anisotropy: D at high noise plus the alignment of the guidance with the unconditional prediction at low noise."""

import torch
import torch.nn.functional as F

from memorization.detectors.base import detector
from memorization.trace import Trace
from noise_norms import noise_diff_norm

LOW_NOISE = -3  # of the timesteps: where the initial noise is looked at a second time
GAMMA = {1024: 0.1}  # weight of the cosine by width of the text features: 1024 is Stable Diffusion 2
GAMMA_SD1 = 2.0


@detector(
    "anisotropy",
    keys={"anisotropy": "anisotropy", "anisotropy_cosine": "anisotropy_cosine"},
    source="Asthana and Belagiannis, ICLR 2026",
    steps=1,
    cost=(2, 0),
)
def anisotropy(trace: Trace) -> dict[str, torch.Tensor]:
    """D at the first step plus gamma times the cosine of eps_uncond and noise_diff at low noise.

    Asthana and Belagiannis (ICLR 2026): both on the SAME initial noise, the cosine at a low-noise timestep. It is that
    of the channel vectors, averaged over positions. gamma is 2 for Stable Diffusion 1 and 0.1 for 2, chosen on 20
    memorized prompts by them. Costs two evaluations per image.
    """
    pipe, step = trace.pipe, trace.steps[0]
    pipe.scheduler.set_timesteps(trace.num_inference_steps)
    low = int(pipe.scheduler.timesteps[max(LOW_NOISE, -trace.num_inference_steps)])
    prediction = pipe.predict_noise(step.latents, low, trace.embeds)
    cosine = F.cosine_similarity(prediction.noise(0).float(), prediction.diff().float(), dim=1).mean((1, 2))
    gamma = GAMMA.get(trace.embeds[0].shape[-1], GAMMA_SD1)
    return {"anisotropy": noise_diff_norm(step.noise_diff) + gamma * cosine, "anisotropy_cosine": cosine}
