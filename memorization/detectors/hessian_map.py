"""Curvature difference as a map: where the prompt's prediction is peaked, at the last step."""

import torch

from memorization.detectors.base import detector
from memorization.gradients import in_chunks
from memorization.needs import NOISE
from memorization.released import SD1, SD2
from memorization.seeds import derived_seed
from memorization.trace import Trace

PROBES = 16


@detector(
    "hessian_map",
    keys={"hessian_map": "hessian_map"},
    source="Kim and Lee, ICML 2026",
    cost=(2, 2 * PROBES),
    released={SD1: {"probes": PROBES}, SD2: {"probes": PROBES}},
    revision=2,
    needs=(NOISE,),
)
def hessian_score(trace: Trace) -> dict[str, torch.Tensor]:
    """Mean of ReLU(diag(-H_text) - diag(-H_uncond)) at the last step, by random probes.

    The map itself goes to `trace.found_maps`, and with `--store_maps` to the file for localisation.
    """
    trace.found_maps["hessian_map"] = hessian_map(trace)
    return {"hessian_map": trace.found_maps["hessian_map"].mean((1, 2))}


def hessian_map(trace: Trace, num_probes: int = PROBES) -> torch.Tensor:
    """ReLU of the channel-summed diag(-H_text) - diag(-H_uncond) at the last step: (images, height, width).

    Kim and Lee (ICML 2026). H is the Jacobian of the score -eps / sqrt(1 - alphas_cumprod); their released code leaves
    that root out, a constant at one timestep. The diagonal is estimated with Rademacher probes z as the mean of
    z * (J^T z) (Hutchinson); the probes of an image depend on its seed alone, and are others than its starting noise.
    Costs two evaluations and `num_probes` times two gradients per image.
    """
    pipe, step = trace.pipe, trace.last
    scale = -1 / (1 - pipe.scheduler.alphas_cumprod[step.timestep]).sqrt()

    def diagonal(some: slice) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(derived_seed(s, "hessian_map")) for s in trace.seeds[some]]
        total = torch.zeros_like(step.latents[some], dtype=torch.float32)
        with torch.enable_grad():
            latents = step.latents[some].detach().requires_grad_()
            prediction = pipe.predict_noise(latents, step.timestep, tuple(e[some] for e in trace.embeds))
            score_diff = scale * prediction.diff()
            for k in range(num_probes):
                signs = torch.stack([torch.randint(2, latents.shape[1:], generator=g) for g in generators])
                probe = (2 * signs - 1).to(latents)
                (product,) = torch.autograd.grad(score_diff, latents, probe, retain_graph=k < num_probes - 1)
                total -= (probe * product).float() / num_probes
        return total

    pipe.num_unet_gradients += 2 * num_probes * len(step.latents)
    return in_chunks(pipe, step.latents, 2, diagonal).sum(1).relu()
