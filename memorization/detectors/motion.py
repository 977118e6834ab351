"""."""

import torch


def motion_norms(pipe, step):
    """Norms of the latents, of their update and of the predicted x_0, a dict to (images,); guided, as they move.

    Broken Memories (Huang et al., KDD 2026) compares them with those of ordinary prompts. x_0 is computed from the
    predicted noise, so that v-prediction models are right.
    """
    prediction, a = step.prediction, pipe.scheduler.alphas_cumprod[step.timestep]
    noise = prediction.noise_scale * step.noise_pred + prediction.latents_scale * step.latents
    x0 = (step.latents - (1 - a).sqrt() * noise) / a.sqrt()
    moved = {"latent_norm": step.latents, "update_norm": step.next_latents - step.latents, "x0_norm": x0}
    return {name: x.float().flatten(1).norm(dim=1) for name, x in moved.items()}


def motion_zscores(norms, calibration):
    """Largest over the steps of the lesser of the z-scores of update and predicted x_0, (images,).

    Broken Memories (Huang et al., KDD 2026) flags an image at the first step where both exceed 3; this is the
    threshold at which it would be flagged, so that any may be chosen afterwards.

    Args:
        norms: dict of (images, steps) by name, of `motion_norms`.
        calibration: by name (mean, standard deviation) over ordinary images, each (steps,).
    """
    scores = [(norms[n] - calibration[n][0]) / calibration[n][1] for n in ("update_norm", "x0_norm")]
    return torch.minimum(*scores).amax(1)
