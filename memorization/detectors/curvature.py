"""Curvature of the score: sharpness, gradients of its norm, and the diagonal of its Hessian as a map."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from memorization.detectors.base import detector
from memorization.trace import Trace

PROBES = 16
STUDY = "early-detection study, 2026"


def score_scale(pipe, t: int) -> torch.Tensor:
    """d score / d noise at a timestep: the score is -eps / sqrt(1 - alphas_cumprod)."""
    return -1 / (1 - pipe.scheduler.alphas_cumprod[t]).sqrt()


@detector("sharpness", keys={"sharpness": "sharpness"}, source="Jeon et al., ICML 2025", steps=1, cost=(2, 2))
def sharpness(trace: Trace) -> dict[str, torch.Tensor]:
    """Norm of (H_text - H_uncond) s_diff at the first step, by one Jacobian-vector product.

    Jeon et al. (ICML 2025): H is the Jacobian of the score s, s_diff = s_text - s_uncond. Their released code
    takes this norm, the paper its square; the ranking is the same.

    Costs two evaluations with tangents per image.
    """
    pipe, step = trace.pipe, trace.steps[0]
    scale = score_scale(pipe, step.timestep)

    def score_diff(latents: torch.Tensor) -> torch.Tensor:
        return scale * pipe.predict_noise(latents, step.timestep, trace.embeds).diff()

    with sdpa_kernel(SDPBackend.MATH):  # the fast kernels have no forward derivative
        product = torch.func.jvp(score_diff, (step.latents,), (scale * step.noise_diff,))[1]
    pipe.num_unet_gradients += 2 * len(step.latents)
    return {"sharpness": product.float().flatten(1).norm(dim=1)}


@detector("curvature_diff", keys={"curvature_diff": "curvature_diff"}, source=STUDY, steps=1, cost=(2, 2))
def curvature_diff(trace: Trace) -> dict[str, torch.Tensor]:
    """Norm of the gradient of (norm(eps_text)^2 - norm(eps_uncond)^2) / 2 at the first step.

    Of an anonymous early-detection study of 2026. Costs two evaluations with gradients per image.
    """
    return {"curvature_diff": curvature_gradient(trace).float().flatten(1).norm(dim=1)}


def curvature_gradient(trace: Trace) -> torch.Tensor:
    """That gradient over the latents, (images, channels, height, width); one backward pass gives the difference."""
    pipe, step = trace.pipe, trace.steps[0]
    with torch.enable_grad():
        latents = step.latents.detach().requires_grad_()
        prediction = pipe.predict_noise(latents, step.timestep, trace.embeds)
        text, uncond = (prediction.noise(b).square().sum() / 2 for b in (1, 0))
        (gradient,) = torch.autograd.grad(text - uncond, latents)
    pipe.num_unet_gradients += 2 * len(latents)
    return gradient


@detector(
    "score_change",
    keys={"score_change_1": "score_change_1", "score_change_2": "score_change_2"},
    source=STUDY,
    steps=3,
    least_steps=3,
)
def score_change(trace: Trace) -> dict[str, torch.Tensor]:
    """Squared change of eps_text from the first step to the second, and to the third.

    Along the guided trajectory; of the same study as `curvature_diff`. Costs nothing beyond the first three steps.
    """
    noises = [trace.steps[k].prediction.noise(1).float() for k in (0, 1, 2)]
    changes = [(b - a).flatten(1).square().sum(1) for a, b in zip(noises, noises[1:], strict=False)]
    return {"score_change_1": changes[0], "score_change_2": changes[1]}


@detector("hessian_map", keys={"hessian_map": "hessian_map"}, source="Kim and Lee, ICML 2026", cost=(2, 2 * PROBES))
def hessian_score(trace: Trace) -> dict[str, torch.Tensor]:
    """Mean of ReLU(diag(-H_text) - diag(-H_uncond)) at the last step, by random probes.

    The map itself goes to `trace.found_maps`, and with `--store_maps` to the file for localisation.
    """
    trace.found_maps["hessian_map"] = hessian_map(trace)
    return {"hessian_map": trace.found_maps["hessian_map"].mean((1, 2))}


def hessian_map(trace: Trace, num_probes: int = PROBES) -> torch.Tensor:
    """ReLU of the channel-summed diag(-H_text) - diag(-H_uncond) at the last step: (images, height, width).

    Kim and Lee (ICML 2026). The diagonal is estimated with Rademacher probes z as the mean of z * (J^T z)
    (Hutchinson); the probes of an image depend on its seed alone. Costs two evaluations and `num_probes` times
    two gradients per image.
    """
    pipe, step = trace.pipe, trace.last
    scale = score_scale(pipe, step.timestep)
    generators = [torch.Generator().manual_seed(seed) for seed in trace.seeds]
    diagonal = torch.zeros_like(step.latents, dtype=torch.float32)
    with torch.enable_grad():
        latents = step.latents.detach().requires_grad_()
        score_diff = scale * pipe.predict_noise(latents, step.timestep, trace.embeds).diff()
        for _ in range(num_probes):
            signs = torch.stack([torch.randint(2, latents.shape[1:], generator=g) for g in generators])
            probe = (2 * signs - 1).to(latents)
            (product,) = torch.autograd.grad(score_diff, latents, probe, retain_graph=True)
            diagonal -= (probe * product).float() / num_probes
    pipe.num_unet_gradients += 2 * num_probes * len(latents)
    return diagonal.sum(1).relu()
