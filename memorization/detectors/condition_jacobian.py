"""Condition Jacobian: how hard the conditional prediction hangs on the prompt's embedding."""

import torch

from memorization.detectors.base import detector
from memorization.gradients import in_chunks
from memorization.released import SD1, SD2
from memorization.seeds import derived_seed
from memorization.trace import Trace


@detector(
    "condition_jacobian",
    keys={"condition_jacobian": "condition_jacobian"},
    source="condition-space-sharpness, SCS-hanyang, 2026",
    steps=1,
    cost=(1, 1),
    released={SD1: {"probes": 1}, SD2: {"probes": 1}},
)
def condition_jacobian(trace: Trace) -> dict[str, torch.Tensor]:
    """Norm of the Jacobian of the UNet's conditional output with respect to the embedding, by one random probe.

    Frobenius norm, at the starting noise and the first of the scheduler's training timesteps, as their released code
    has it: sqrt of norm(J^T v)^2, whose mean over Gaussian v is the norm squared (Hutchinson). One probe is noisy:
    average over images. Of v-prediction models it is the Jacobian of v, as there. The probe of an image depends on its
    seed alone. Costs an evaluation and a gradient per image.
    """
    pipe, latents = trace.pipe, trace.steps[0].latents
    t = first_training_timestep(trace)

    def gradient(some: slice) -> torch.Tensor:
        with torch.enable_grad():
            text = trace.embeds[1][some].detach().requires_grad_()
            output = pipe.predict_outputs(latents[some], t, (text,))[0]
            return torch.autograd.grad(output, text, probes(trace.seeds[some], output))[0]

    pipe.num_unet_gradients += len(latents)
    return {"condition_jacobian": in_chunks(pipe, latents, 1, gradient).float().flatten(1).norm(dim=1)}


def first_training_timestep(trace: Trace) -> float:
    """The first timestep of a run of as many steps as the model was trained on: one beyond the last it has an alpha of,
    where the scheduler's offset is 1."""
    return trace.pipe.set_timesteps(trace.pipe.scheduler.config.num_train_timesteps)[0]


def probes(seeds, like: torch.Tensor) -> torch.Tensor:
    """Gaussian noise in the shape of `like`, (images, ...), of each image's derived seed."""
    generators = [torch.Generator().manual_seed(derived_seed(s, "condition_jacobian")) for s in seeds]
    return torch.stack([torch.randn(like.shape[1:], generator=g) for g in generators]).to(like)
