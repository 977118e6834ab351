"""What one UNet call and one denoising step give."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NoisePrediction:
    """The UNet's outputs for all branches at one timestep.

    The detection scores are defined on the predicted noise, guidance on whatever the UNet predicts.
    For `epsilon` models these are the same. For `v_prediction` eps = sqrt(a) v + sqrt(1 - a) x_t, and
    for `sample` eps = (x_t - sqrt(a) x_0) / sqrt(1 - a), with a = alphas_cumprod[t] (Salimans and Ho,
    ICLR 2022, appendix D): linear in the output, so that a difference of noises is the difference of
    outputs times `noise_scale`, and guidance in either space gives the same image.

    Attributes:
        outputs: one tensor (images, channels, height, width) per branch, uncond first.
        latents: x_t, same shape.
        noise_scale: d eps / d output, a 0-d tensor.
        latents_scale: d eps / d x_t, a 0-d tensor; 0 for epsilon models.
    """

    outputs: tuple
    latents: torch.Tensor
    noise_scale: torch.Tensor
    latents_scale: torch.Tensor

    def noise(self, branch):
        """Predicted noise of one branch."""
        return self.noise_scale * self.outputs[branch] + self.latents_scale * self.latents

    def diff(self, branch=1, other=0):
        """Predicted noise of `branch` less that of `other` (uncond)."""
        return self.noise_scale * (self.outputs[branch] - self.outputs[other])


@dataclass(frozen=True)
class DenoiseStep:
    """One finished step. Tensors are (images, channels, height, width)."""

    index: int  # 0 is the noisiest
    timestep: int
    latents: torch.Tensor  # x_t, what the UNet saw
    prediction: NoisePrediction
    noise_pred: torch.Tensor  # model output after guidance
    next_latents: torch.Tensor  # x_{t-1}

    @property
    def noise_diff(self):
        """Text-conditional part of the predicted noise."""
        return self.prediction.diff(1, 0)

    @property
    def noise_pred_uncond(self):
        return self.prediction.noise(0)
