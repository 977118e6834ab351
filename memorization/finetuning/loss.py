"""The loss of a batch: what the UNet predicts at a random timestep, against the noise, the velocity or the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor

from memorization.finetuning.base import Acting
from memorization.finetuning.draws import token_ids
from memorization.finetuning.latents import EncodedPictures
from noise_norms import noise_diff_norm

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class TrainingLoss:
    """What is minimised.

    Attributes:
        pipe: whose scheduler and tokenizer are used.
        pictures: latents of what is trained on.
        unet, text_encoder: as they are trained, wrapped by accelerate.
        mitigations: those that act on embeddings, in their order.
        drop_above: magnitude D above which a sample is left out (Wen et al., ICLR 2024); None leaves none out.
    """

    pipe: "LocalStableDiffusionPipeline"
    pictures: EncodedPictures
    unet: torch.nn.Module
    text_encoder: torch.nn.Module
    mitigations: Sequence[Acting]
    drop_above: float | None

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Mean loss over the samples of a batch that are kept, and how many are not; one sample's draws are its own."""
        generators = [torch.Generator().manual_seed(int(seed)) for seed in batch["seed"]]
        scheduler, latents = self.pipe.scheduler, self.pictures.sample(batch, generators)
        noise = randn_tensor(latents.shape, generators, latents.device, latents.dtype)
        steps = scheduler.config.num_train_timesteps
        t = torch.cat([torch.randint(steps, (1,), generator=generator) for generator in generators]).to(latents.device)
        noisy = scheduler.add_noise(latents, noise, t)
        text = self.text_encoder(batch["ids"])[0]
        for acting in self.mitigations:
            text = acting.embeddings(text, generators)
        predicted = self.predict(noisy, t, text)
        target = self.target(latents, noise, t)
        losses = F.mse_loss(predicted.float(), target.float(), reduction="none").mean((1, 2, 3))
        keep = self.kept(noisy, t, predicted.detach())
        return (losses * keep).sum() / keep.sum().clamp(min=1), int((1 - keep).sum())

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """What the UNet gives, each sample at a timestep of its own."""
        return self.unet(noisy, t, encoder_hidden_states=text, return_dict=False)[0]

    def target(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the UNet is to predict, by the scheduler's prediction type."""
        kind = self.pipe.scheduler.config.prediction_type
        if kind == "v_prediction":
            return self.pipe.scheduler.get_velocity(latents, noise, t)
        return latents if kind == "sample" else noise

    @torch.no_grad()
    def kept(self, noisy: torch.Tensor, t: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """1 for samples that are kept, 0 for those whose magnitude D is above the threshold, (samples,)."""
        if self.drop_above is None:
            return torch.ones(len(t), device=t.device)
        empty = self.text_encoder(token_ids(self.pipe.tokenizer, "")[None].to(t.device))[0].expand(len(t), -1, -1)
        uncond = self.predict(noisy, t, empty)
        scales = torch.stack([self.pipe.noise_scales(k)[0] for k in t.tolist()])
        scale = scales.to(t.device).reshape(-1, 1, 1, 1)
        return (noise_diff_norm(scale * (predicted - uncond)) <= self.drop_above).float()
