"""Mitigations that change the starting noise instead of the prompt, each image on its own.

Where the noise difference is computed, its unit vector u is taken over one image's whole latent.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import DelayedGuidance, ImageBatch, Mitigated, MitigationOptions, always_acting
from noise_norms import noise_diff_norm
from optim_utils import descend, first_timestep

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline

SAIL_LR, SAIL_WEIGHT, SAIL_EVALS = 0.05, 0.05, 4
HAN = "Han et al., NeurIPS 2025"
HAN_GAMMA, HAN_RHO, HAN_NUMEL = 0.7, 50.0, 4 * 64 * 64
HAN_TAU = 900  # timestep down to which guidance is off
BASIN_EVALS = 4  # evaluations of a repetition
ADAMW_LR, ADAMW_EVALS = 0.01, 2

Embeds = tuple[torch.Tensor, torch.Tensor]
NoiseDescent = Callable[..., tuple[torch.Tensor, list[int]]]


@mitigation(
    "sail",
    knob="Adam steps on the starting noise",
    source="Jeon et al., ICML 2025",
    largest=10,
    sweep=(1, 2, 4, 7, 10),
    cost=lambda iterations, steps: SAIL_EVALS * round(iterations),
    stops=True,
    reads="latents",
)
def sail_generation(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Optimises the starting noise for a flat place.

    An image is done at or below `--optim_target_loss` (8.2 for Stable Diffusion 1).
    """
    return optimised_noise(pipe, options, images, strength, sail, SAIL_EVALS)


@mitigation(
    "init_noise_adam",
    knob="AdamW steps on the starting noise",
    source=HAN,
    largest=50,
    sweep=(5, 10, 20, 35, 50),
    cost=lambda iterations, steps: ADAMW_EVALS * round(iterations),
    stops=True,
    reads="latents",
)
def lower_magnitude_generation(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Optimises the starting noise until D is at --optim_target_loss."""
    return optimised_noise(pipe, options, images, strength, lower_magnitude, ADAMW_EVALS)


@mitigation(
    "init_noise",
    knob="repetitions of the step out of the basin",
    source=HAN,
    largest=8,
    sweep=(1, 2, 3, 4, 6),
    cost=lambda repetitions, steps: BASIN_EVALS * round(repetitions),
    reads="latents",
)
def other_basin(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Steps out of the attraction basin; guidance only from timestep 900 on.

    Han et al., batch-wise: `leave_basin` so many times, and no guidance until tau.
    """
    t = first_timestep(pipe, options.num_inference_steps)
    latents = leave_basin(pipe, images.latents, t, (images.negatives(), images.embeds()), round(strength))
    pipe.scheduler.set_timesteps(options.num_inference_steps)
    waiting = int((pipe.scheduler.timesteps > HAN_TAU).sum())
    guidance = DelayedGuidance(options.guidance_scale, waiting)
    evals = [BASIN_EVALS * round(strength)] * len(images)
    return always_acting(pipe, options, images, latents=latents, guidance=guidance, evals=evals)


def optimised_noise(
    pipe: "LocalStableDiffusionPipeline",
    options: MitigationOptions,
    images: ImageBatch,
    strength: float,
    function: NoiseDescent,
    evals_per_iteration: int,
) -> Mitigated:
    """Generation from starting noise that `function` optimised at the first step, `strength` iterations at most."""
    t, embeds = first_timestep(pipe, options.num_inference_steps), (images.negatives(), images.embeds())
    latents, iterations = function(pipe, images.latents, t, embeds, round(strength), options.optim_target_loss)
    evals = [evals_per_iteration * k for k in iterations]
    return always_acting(pipe, options, images, latents=latents, evals=evals, iterations=iterations)


def noise_diff(pipe: "LocalStableDiffusionPipeline", latents: torch.Tensor, t: int, embeds: Embeds) -> torch.Tensor:
    """Text-conditional part of the predicted noise, (images, channels, height, width); two evaluations per image."""
    return pipe.predict_noise(latents, t, embeds).diff()


def unit(x: torch.Tensor) -> torch.Tensor:
    """Each image of x over its norm."""
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)


def sail(
    pipe: "LocalStableDiffusionPipeline",
    latents: torch.Tensor,
    t: int,
    embeds: Embeds,
    num_iters: int,
    target_loss: float | None = None,
) -> tuple[torch.Tensor, list[int]]:
    """Starting noise in a flat place, by Adam (SAIL; Jeon et al., ICML 2025).

    Loss: ||noise_diff(x + u)|| + 0.05 ||x||, u the unit noise_diff at the x of this iteration (the released code
    takes it at the x of the first). An image leaves at or below `target_loss`, 8.2 for Stable Diffusion 1.

    Returns:
        (latents, iterations of each image, a list). An iteration costs four evaluations and two gradients.
    """

    def loss(x: torch.Tensor, rows: list[int]) -> torch.Tensor:
        some = (embeds[0][rows], embeds[1][rows])
        with torch.no_grad():
            u = unit(noise_diff(pipe, x, t, some))
        return noise_diff_norm(noise_diff(pipe, x + u, t, some)) + SAIL_WEIGHT * x.float().flatten(1).norm(dim=1)

    latents, losses = descend(pipe, latents, loss, torch.optim.Adam, SAIL_LR, num_iters, target_loss, gradients=2)
    return latents, [len(some) for some in losses]


def lower_magnitude(
    pipe: "LocalStableDiffusionPipeline",
    latents: torch.Tensor,
    t: int,
    embeds: Embeds,
    num_iters: int,
    target_loss: float | None = None,
) -> tuple[torch.Tensor, list[int]]:
    """Starting noise with a low D, by AdamW (Han et al., NeurIPS 2025, per sample).

    Returns:
        As `sail`; an iteration costs two evaluations and two gradients.
    """

    def loss(x: torch.Tensor, rows: list[int]) -> torch.Tensor:
        return noise_diff_norm(noise_diff(pipe, x, t, (embeds[0][rows], embeds[1][rows])))

    latents, losses = descend(pipe, latents, loss, torch.optim.AdamW, ADAMW_LR, num_iters, target_loss, gradients=2)
    return latents, [len(some) for some in losses]


@torch.no_grad()
def leave_basin(
    pipe: "LocalStableDiffusionPipeline", latents: torch.Tensor, t: int, embeds: Embeds, repetitions: int
) -> torch.Tensor:
    """x <- x - gamma (noise_diff(x + rho u) - noise_diff(x)), so many times (Han et al., NeurIPS 2025, batch-wise).

    gamma = 0.7 and rho = 50 as published for the latents of Stable Diffusion 1; rho grows with the root of their
    number of elements, as the norm of noise does. A repetition costs four evaluations per image.
    """
    rho = HAN_RHO * (latents[0].numel() / HAN_NUMEL) ** 0.5
    for _ in range(repetitions):
        diff = noise_diff(pipe, latents, t, embeds)
        latents = latents - HAN_GAMMA * (noise_diff(pipe, latents + rho * unit(diff), t, embeds) - diff)
    return latents
