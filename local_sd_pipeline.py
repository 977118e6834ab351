"""Latent diffusion with its denoising loop in the open: written once for all families, observed from outside.

`predict_outputs` is the only place that calls the UNet and the only one that knows how guidance branches
are stacked; `denoise` is the only loop. Guidance is a function that is passed in, and whoever wants to
measure something iterates over the steps. A family says what the UNet is told of a prompt (`encode_one`) and how
(`conditions`): Stable Diffusion 1 and 2 at the end of this file, SDXL in memorization/models/.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image

from attn_utils import CrossAttentionStore, record_cross_attention
from decoding import decode_finite
from noise_norms import NoisePrediction

GUIDANCE_SCALE = 7.5  # of Stable Diffusion


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
    def noise_diff(self) -> torch.Tensor:
        """Text-conditional part of the predicted noise."""
        return self.prediction.diff(1, 0)

    @property
    def noise_pred_uncond(self) -> torch.Tensor:
        return self.prediction.noise(0)


Guidance = Callable[[NoisePrediction], torch.Tensor]


@dataclass(frozen=True)
class Source:
    """Where a pipeline was loaded from: folders, files or hub ids."""

    model_id: str
    unet_id: str | None = None  # of parts that are not the model's own
    vae_id: str | None = None
    config: str | None = None  # what a single file's configs and tokenizer are of
    lora: tuple[str, ...] = ()  # with their scales
    embedding: tuple[str, ...] = ()
    former_scheduler: bool = True  # whether DDIM has the values that it had before other classes were read right


class DenoisingPipeline(DiffusionPipeline):
    """`denoise`, the loop as a generator, and what it needs around it: mixed into a pipeline class of diffusers.

    What a prompt says is one tensor, (images, rows, dim), whatever the family: the features of its tokens in the first
    `tokenizer.model_max_length` rows, and behind them what else the UNet is conditioned on. So images and branches are
    stacked, picked and optimised the same way in all of them.

    Attributes:
        num_unet_evals: UNet evaluations of single samples since loading (a guided step on one image is two).
        num_unet_gradients: backward passes and tangents of single samples, counted by who takes them.
        grad_batch_size: images that a gradient is taken of at a time; None takes as many as fit, see `gradients`.
        loaded_from: where `load_pipeline` found it; None of a pipeline that was put together in memory.
        base: the model before it was tuned, if given, for what compares with it.
    """

    family_name = "Stable Diffusion"  # in messages
    num_unet_evals = 0
    num_unet_gradients = 0
    grad_batch_size: int | None = None
    empty_embeds = None
    loaded_from: Source | None = None
    base: "DenoisingPipeline | None" = None
    unet: Any
    vae: Any
    scheduler: Any
    tokenizer: Any
    text_encoder: Any
    image_processor: Any
    vae_scale_factor: int
    prepare_latents: Callable[..., torch.Tensor]
    maybe_convert_prompt: Callable[..., str]

    def encode_one(self, prompt: str) -> torch.Tensor:
        """What the UNet is told of one prompt, (1, rows, dim); of the empty one, what guidance starts from."""
        raise NotImplementedError

    def conditions(self, embeds: torch.Tensor, latents: torch.Tensor) -> dict[str, Any]:
        """The UNet's arguments for features (samples, rows, dim) and latents (samples, channels, height, width)."""
        raise NotImplementedError

    def predict_noise(self, latents: torch.Tensor, t: int, embeds: Sequence[torch.Tensor]) -> NoisePrediction:
        """One UNet call for all branches.

        Args:
            latents: x_t, shape (images, channels, height, width).
            t: timestep; a plain number, as reading one back from a GPU would wait for all that is queued there.
            embeds: text features per branch, uncond first, each (images, tokens, dim).

        Returns:
            `NoisePrediction` with the branches in the order of `embeds`.
        """
        return NoisePrediction(self.predict_outputs(latents, t, embeds), latents, *self.noise_scales(t))

    def predict_outputs(
        self, latents: torch.Tensor, t: int, embeds: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """What the UNet itself gives for each branch, as `predict_noise` takes them; at any t."""
        sample = self.scheduler.scale_model_input(torch.cat([latents] * len(embeds)), t)
        self.num_unet_evals += len(sample)
        timestep = torch.full((), t, dtype=torch.int64, device=sample.device)  # filled there, not copied
        conditions = self.conditions(torch.cat(tuple(embeds)), sample)
        output = self.unet(sample, timestep, **conditions, return_dict=False)[0]
        return output.chunk(len(embeds))

    def noise_scales(self, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(d eps / d output, d eps / d x_t) at timestep t; see `NoisePrediction`.

        Raises:
            ValueError: for a scheduler with another prediction type.
        """
        alpha = self.scheduler.alphas_cumprod[t]
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return torch.tensor(1.0), torch.tensor(0.0)
        if kind == "v_prediction":
            return alpha.sqrt(), (1 - alpha).sqrt()
        if kind == "sample":
            return -(alpha / (1 - alpha)).sqrt(), 1 / (1 - alpha).sqrt()
        raise ValueError(f"prediction_type {kind!r} of the scheduler is not epsilon, v_prediction or sample")

    @torch.no_grad()
    def denoise(
        self,
        latents: torch.Tensor,
        embeds: Sequence[torch.Tensor],
        num_inference_steps: int = 50,
        guidance: Guidance | None = None,
        guidance_scale: float = GUIDANCE_SCALE,
        stop_after: int | None = None,
        around_step: Callable[[int, bool], AbstractContextManager] | None = None,
    ) -> Iterator[DenoiseStep]:
        """Run the reverse process, yielding a `DenoiseStep` after each step. Nothing in it waits for the device.

        A caller that needs only the first step stops iterating.

        Args:
            latents: initial noise, shape (images, channels, height, width).
            embeds: text features per branch, uncond first, (images, tokens, dim); `guidance` gets a third's output.
            guidance: maps a `NoisePrediction` to the model output the scheduler gets; default is
                classifier-free guidance at `guidance_scale`.
            stop_after: end after so many of the steps; None makes them all.
            around_step: makes out of (index, is_last) the context of a step's UNet call, where attention is recorded.
        """
        self.scheduler.set_timesteps(num_inference_steps)
        timesteps = self.scheduler.timesteps.tolist()[:stop_after]
        for index, t in enumerate(timesteps):
            with around_step(index, index == len(timesteps) - 1) if around_step else nullcontext():
                prediction = self.predict_noise(latents, t, embeds)
            noise_pred = prediction.guided(guidance_scale) if guidance is None else guidance(prediction)
            next_latents = self.scheduler.step(noise_pred, t, latents, return_dict=False)[0]
            yield DenoiseStep(index, t, latents, prediction, noise_pred, next_latents)
            latents = next_latents

    def generate(
        self,
        latents: torch.Tensor,
        embeds: Sequence[torch.Tensor],
        store: CrossAttentionStore | None = None,
        step_stores: Mapping[int, CrossAttentionStore] | None = None,
        callback: Callable[[DenoiseStep], None] | None = None,
        **denoise_kwargs,
    ) -> torch.Tensor:
        """Denoise to the end.

        Args:
            store: records the last step's attention.
            step_stores: by index, stores that record that step's attention; all other steps run without any hook.
            callback: sees every `DenoiseStep`.
            **denoise_kwargs: of `denoise`.

        Returns:
            Final latents, shape (images, channels, height, width).
        """

        def around_step(index: int, is_last: bool) -> ExitStack:
            stack = ExitStack()
            for some in (store if is_last else None, (step_stores or {}).get(index)):
                if some is not None:
                    some.num_branches = len(embeds)
                    stack.enter_context(record_cross_attention(self.unet, some))
            return stack

        for step in self.denoise(latents, embeds, around_step=around_step, **denoise_kwargs):
            if callback is not None:
                callback(step)
        return step.next_latents

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the prompts and of the empty prompt, each (prompts, rows, dim).

        Each prompt is encoded by itself, so that its features do not depend on its neighbours, and once; the
        empty prompt once for the life of the pipeline.
        """
        self.maybe_free_model_hooks()  # of offloaded parts those that the text encoders would have to lie beside
        if self.empty_embeds is None:
            self.empty_embeds = self.encode_one("")
        embeds = {prompt: self.encode_one(prompt) for prompt in dict.fromkeys(prompts)}
        return torch.cat([embeds[p] for p in prompts]), self.empty_embeds.expand(len(prompts), -1, -1)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Images of final latents, uint8 array (images, height, width, 3).

        One at a time: the decoder of Stable Diffusion needs more memory per image than its UNet does. Where it
        overflows in half precision, that image is decoded again in float32.

        Raises:
            NotFiniteError: if an image holds NaN or infinity all the same, which would be saved as black.
        """
        return np.concatenate([self.decode_one(x, k) for k, x in enumerate(latents.split(1))])

    def decode_one(self, latents: torch.Tensor, position: int = 0) -> np.ndarray:
        image = self.image_processor.postprocess(decode_finite(self.vae, latents, position), output_type="np")
        return (image * 255).round().astype("uint8")

    @property
    def native_length(self) -> int:
        """Height and width in pixels that the model is made for.

        Raises:
            ValueError: if its UNet says none, or is not made for squares.
        """
        size = self.unet.config.sample_size
        sides = set(size) if isinstance(size, list | tuple) else {size}
        if len(sides) != 1 or None in sides:
            raise ValueError(f"the UNet's sample_size is {size}, which is no square; give image_length")
        return sides.pop() * self.vae_scale_factor

    @torch.no_grad()
    def encode_images(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Latents of images, uint8 arrays (height, width, 3) of any size, at the model's own size."""
        size = self.native_length
        resized = [self.image_processor.preprocess(Image.fromarray(i), height=size, width=size) for i in images]
        pixels = torch.cat(resized).to(self._execution_device, self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor

    def initial_latents(
        self, seeds: Sequence[int], image_length: int | None = None, joint_seed: int | None = None
    ) -> torch.Tensor:
        """Starting noise, one CPU generator per image: image k depends on `seeds[k]` alone.

        Args:
            seeds: one integer per image.
            image_length: height and width in pixels; None takes the model's own.
            joint_seed: draw all images in one call from a generator with this seed instead, as the
                released code does; image k then depends on the number of images.

        Raises:
            ValueError: if `image_length` is not a multiple of what the UNet can halve.
        """
        size = image_length or self.native_length
        multiple = self.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if size % multiple:
            raise ValueError(f"image_length {size} is not a multiple of {multiple}")
        generators: list[torch.Generator] | torch.Generator = [torch.Generator().manual_seed(s) for s in seeds]
        if joint_seed is not None:
            generators = torch.Generator().manual_seed(joint_seed)
        channels, dtype = self.unet.config.in_channels, self.unet.dtype
        return self.prepare_latents(len(seeds), channels, size, size, dtype, self._execution_device, generators)

    def token_rows(self, embeds: torch.Tensor) -> torch.Tensor:
        """The features of the tokens out of (samples, rows, dim), which the cross-attention reads."""
        return embeds[:, : self.tokenizer.model_max_length]

    def token_ids(self, prompt: str) -> list[int]:
        """The prompt's ids as `encode` has them, begin and end token included, without the padding.

        A token of textual inversion stands for all of its vectors, as diffusers writes it out before encoding.
        """
        length = self.tokenizer.model_max_length
        return self.tokenizer(self.written_out(prompt), truncation=True, max_length=length).input_ids

    def written_out(self, prompt: str) -> str:
        return self.maybe_convert_prompt(prompt, self.tokenizer)

    def end_token(self, prompt: str) -> int:
        """Index of the first end token among the encoded ids, the one that bright endings are read at.

        It is the last of the prompt's own, or an earlier one that the prompt itself spells.
        """
        return self.token_ids(prompt).index(self.tokenizer.eos_token_id)

    def truncated_text(self, prompt: str) -> str:
        """The end of the prompt that does not fit into the model's limit; empty when all of it does."""
        ids = self.tokenizer(self.written_out(prompt)).input_ids
        kept = self.tokenizer.model_max_length - 1
        return self.tokenizer.decode(ids[kept:-1]).strip() if len(ids) - 1 > kept else ""


class LocalStableDiffusionPipeline(DenoisingPipeline, StableDiffusionPipeline):
    """Stable Diffusion 1.x and 2.x."""

    def encode_one(self, prompt: str) -> torch.Tensor:
        return self.encode_prompt(prompt, self._execution_device, 1, False)[0]

    def conditions(self, embeds: torch.Tensor, latents: torch.Tensor) -> dict[str, Any]:
        return {"encoder_hidden_states": embeds}
