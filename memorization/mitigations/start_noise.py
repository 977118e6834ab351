"""Mitigations that change the starting noise instead of the prompt, each image on its own.

Where the noise difference is computed, its unit vector u is taken over one image's whole latent.
"""

import torch

from memorization.mitigations.base import DelayedGuidance, generate
from noise_norms import noise_diff_norm
from optim_utils import descend, first_timestep

HAN_TAU = 900  # timestep down to which guidance is off


def optimised_noise(pipe, options, images, strength, function, evals_an_iteration):
    """Methods that optimise the starting noise at the first step, `strength` iterations at most."""
    t, embeds = first_timestep(pipe, options.num_inference_steps), (images.negatives(len(images)), images.embeds())
    target = options.optim_target_loss
    latents, iterations = function(pipe, images.latents, t, embeds, round(strength), target)
    evals = [evals_an_iteration * k for k in iterations]
    result = generate(pipe, options, images, latents, evals=evals)
    result.report["iterations"] = iterations
    return result


def other_basin(pipe, options, images, strength):
    """Han et al., batch-wise: `leave_basin` so many times, and no guidance until tau."""
    t, embeds = first_timestep(pipe, options.num_inference_steps), (images.negatives(len(images)), images.embeds())
    latents = leave_basin(pipe, images.latents, t, embeds, round(strength))
    pipe.scheduler.set_timesteps(options.num_inference_steps)
    waiting = int((pipe.scheduler.timesteps > HAN_TAU).sum())
    guidance = DelayedGuidance(options.guidance_scale, waiting)
    return generate(pipe, options, images, latents, guidance=guidance, evals=4 * round(strength))


SAIL_LR, SAIL_WEIGHT = 0.05, 0.05


HAN_GAMMA, HAN_RHO, HAN_NUMEL = 0.7, 50.0, 4 * 64 * 64


ADAMW_LR = 0.01


def noise_diff(pipe, latents, t, embeds):
    """Text-conditional part of the predicted noise, (images, channels, height, width); two evaluations an image."""
    return pipe.predict_noise(latents, t, embeds).diff()


def unit(x):
    """Each image of x over its norm."""
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)


def sail(pipe, latents, t, embeds, num_iters, target_loss=None):
    """Starting noise in a flat place, by Adam (SAIL; Jeon et al., ICML 2025).

    Loss: ||noise_diff(x + u)|| + 0.05 ||x||, u the unit noise_diff at the x of this iteration (the released code
    takes it at the x of the first). An image leaves at or below `target_loss`, 8.2 for Stable Diffusion 1.

    Returns:
        (latents, iterations of each image, a list). An iteration costs four evaluations and two gradients.
    """

    def loss(x, rows):
        some = tuple(e[rows] for e in embeds)
        with torch.no_grad():
            u = unit(noise_diff(pipe, x, t, some))
        return noise_diff_norm(noise_diff(pipe, x + u, t, some)) + SAIL_WEIGHT * x.float().flatten(1).norm(dim=1)

    latents, losses = descend(pipe, latents, loss, torch.optim.Adam, SAIL_LR, num_iters, target_loss, gradients=2)
    return latents, [len(some) for some in losses]


def lower_magnitude(pipe, latents, t, embeds, num_iters, target_loss=None):
    """Starting noise with a low D, by AdamW (Han et al., NeurIPS 2025, per sample).

    Returns:
        As `sail`; an iteration costs two evaluations and two gradients.
    """

    def loss(x, rows):
        return noise_diff_norm(noise_diff(pipe, x, t, tuple(e[rows] for e in embeds)))

    latents, losses = descend(pipe, latents, loss, torch.optim.AdamW, ADAMW_LR, num_iters, target_loss, gradients=2)
    return latents, [len(some) for some in losses]


@torch.no_grad()
def leave_basin(pipe, latents, t, embeds, repetitions):
    """x <- x - gamma (noise_diff(x + rho u) - noise_diff(x)), so many times (Han et al., NeurIPS 2025, batch-wise).

    gamma = 0.7 and rho = 50 as published for the latents of Stable Diffusion 1; rho grows with the root of their
    number of elements, as the norm of noise does. A repetition costs four evaluations an image.
    """
    rho = HAN_RHO * (latents[0].numel() / HAN_NUMEL) ** 0.5
    for _ in range(repetitions):
        diff = noise_diff(pipe, latents, t, embeds)
        latents = latents - HAN_GAMMA * (noise_diff(pipe, latents + rho * unit(diff), t, embeds) - diff)
    return latents
