"""The predicted noise and the magnitude of its text-conditional part, D, with its local form LD: pure functions.

Every score is one number per image, computed in float32, and higher means more likely memorized. A
prompt's score is the mean over its images, taken by the caller.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from attn_utils import fit_mask

Norms = TypeVar("Norms", torch.Tensor, np.ndarray)


@dataclass(frozen=True)
class NoisePrediction:
    """The denoiser's outputs for all branches at one timestep.

    The detection scores are defined on the predicted noise, guidance on whatever the denoiser predicts.
    For `epsilon` models these are the same. For `v_prediction` eps = sqrt(a) v + sqrt(1 - a) x_t, and
    for `sample` eps = (x_t - sqrt(a) x_0) / sqrt(1 - a), with a = alphas_cumprod[t] (Salimans and Ho,
    ICLR 2022, appendix D): linear in the output, so that a difference of noises is the difference of
    outputs times `noise_scale`, and guidance in either space gives the same image.

    With flow matching the scores are defined on the velocity, and what is called noise here is that: x_t = (1 - s) x_0
    + s eps, the output is v = eps - x_0, and at s = 1, where a generation starts, x_t is the noise whatever the prompt.

    Attributes:
        outputs: one tensor (images, channels, height, width) per branch, uncond first.
        latents: x_t, same shape.
        noise_scale: d eps / d output, a 0-d tensor.
        latents_scale: d eps / d x_t, a 0-d tensor; 0 for epsilon models.
        is_distilled: whether guidance is in the outputs already, as in Flux: then the prompt's own is followed.
    """

    outputs: tuple[torch.Tensor, ...]
    latents: torch.Tensor
    noise_scale: torch.Tensor
    latents_scale: torch.Tensor
    is_distilled: bool = False

    def noise(self, branch: int) -> torch.Tensor:
        """Predicted noise of one branch."""
        return self.as_noise(self.outputs[branch])

    def as_noise(self, output: torch.Tensor) -> torch.Tensor:
        """The noise that a model output stands for, a guided one's too."""
        return self.noise_scale * output + self.latents_scale * self.latents

    def diff(self, branch: int = 1, other: int = 0) -> torch.Tensor:
        """Predicted noise of `branch` less that of `other` (uncond)."""
        return self.noise_scale * (self.outputs[branch] - self.outputs[other])

    def guided(self, guidance_scale: float) -> torch.Tensor:
        """Model output under classifier-free guidance (Ho and Salimans, 2022) in Stable Diffusion's form."""
        uncond, text = self.outputs[:2]
        if self.is_distilled:
            return text
        return uncond + guidance_scale * (text - uncond)


def noise_scales(scheduler: Any, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(d eps / d output, d eps / d x_t) at timestep t, of diffusion; see `NoisePrediction`.

    Raises:
        ValueError: for a scheduler with another prediction type.
    """
    alpha = scheduler.alphas_cumprod[t]
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return torch.tensor(1.0), torch.tensor(0.0)
    if kind == "v_prediction":
        return alpha.sqrt(), (1 - alpha).sqrt()
    if kind == "sample":
        return -(alpha / (1 - alpha)).sqrt(), 1 / (1 - alpha).sqrt()
    raise ValueError(f"prediction_type {kind!r} of the scheduler is not epsilon, v_prediction or sample")


def noise_diff_map(noise_diff: torch.Tensor) -> torch.Tensor:
    """Where the prompt changes the prediction: noise_diff squared, summed over channels.

    Every norm below is a sum over this map, which is why one pass is enough: keep the map of each
    step and apply the mask when the last step has given it.

    Args:
        noise_diff: noise_pred_text - noise_pred_uncond, shape (images, channels, height, width).

    Returns:
        float32 tensor (images, height, width).
    """
    return noise_diff.float().square().sum(1)


def noise_diff_norm(noise_diff: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Magnitude of the text-conditional noise prediction, global (D_t) or local (LD_t); higher = memorized.

    D_t is that of Wen et al. (ICLR 2024); with a mask it is Chen et al. (ICLR 2025), equation 8: the
    norm of the weighted difference over the mask's mean, so that a mask of ones gives D_t and scaling
    the mask changes nothing.

    Args:
        noise_diff: noise_pred_text - noise_pred_uncond, shape (images, channels, height, width).
        mask: optional non-negative weights, shape (images, 1, mask_height, mask_width).

    Returns:
        float32 tensor (images,).
    """
    return norms_from_maps(noise_diff_map(noise_diff)[:, None], mask)[:, 0]


def norms_from_maps(maps: torch.Tensor, mask: torch.Tensor | None = None, normalize: str = "mean") -> torch.Tensor:
    """Norms of every step from the squared-difference maps of one pass; higher = memorized.

    Args:
        maps: `noise_diff_map` of each step, shape (images, steps, height, width).
        mask: optional non-negative weights, shape (images, 1, mask_height, mask_width).
        normalize: "mean" divides by the mask's mean (Chen et al., equation 8); "rms" by its root mean
            square, a control: for a flat difference it gives D_t whatever the mask, where "mean"
            gives sqrt(1 + CV(mask)^2) times as much.

    Returns:
        float32 tensor (images, steps); 0 where the mask is 0 all over, as the first step's own map of an empty prompt.

    Raises:
        ValueError: for another `normalize`, or a mask whose size does not divide the maps'.
    """
    if mask is None:
        return maps.float().sum((2, 3)).sqrt()
    if normalize not in ("mean", "rms"):
        raise ValueError(f"normalize is {normalize!r}; it must be 'mean' or 'rms'")
    mask = fit_mask(mask, maps.shape[-2:])
    weights = mask.square()
    size = mask.mean((2, 3)) if normalize == "mean" else weights.mean((2, 3)).sqrt()
    return (maps.float() * weights).sum((2, 3)).sqrt() / size.clamp(min=torch.finfo(size.dtype).tiny)


def leading_mean(norms: Norms, num_steps: int | None = None) -> Norms:
    """Mean over the first `num_steps` steps (all when None): D(T) or LD(T), shape (images,).

    Args:
        norms: per-step norms, tensor or array (images, steps).
        num_steps: T of the papers; 1, 10 and the whole run are usual.
    """
    return norms[:, :num_steps].mean(1)
