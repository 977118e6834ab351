"""."""

import torch.nn.functional as F

from noise_norms import noise_diff_norm

LOW_NOISE = -3  # of the timesteps: where anisotropy looks at the initial noise a second time


GAMMA = {1024: 0.1}  # weight of the cosine by width of the text features: 1024 is Stable Diffusion 2


GAMMA_SD1 = 2.0


def anisotropy(trace):
    """D at the first timestep plus gamma times the mean cosine of eps_uncond and noise_diff at a low-noise timestep.

    Asthana and Belagiannis (ICLR 2026): both on the SAME initial noise. The cosine is that of the channel vectors,
    averaged over positions. gamma is 2 for Stable Diffusion 1 and 0.1 for 2, chosen on 20 memorized prompts by them.
    Costs two evaluations an image.
    """
    pipe, step = trace.pipe, trace.steps[0]
    pipe.scheduler.set_timesteps(trace.num_inference_steps)
    low = int(pipe.scheduler.timesteps[max(LOW_NOISE, -trace.num_inference_steps)])
    prediction = pipe.predict_noise(step.latents, low, trace.embeds)
    cosine = F.cosine_similarity(prediction.noise(0).float(), prediction.diff().float(), dim=1).mean((1, 2))
    gamma = GAMMA.get(trace.embeds[0].shape[-1], GAMMA_SD1)
    return {"anisotropy": noise_diff_norm(step.noise_diff) + gamma * cosine, "anisotropy_cosine": cosine}
