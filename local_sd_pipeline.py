"""Latent diffusion with its denoising loop in the open: written once for all families, observed from outside.

`call_denoiser` is the only place that calls the UNet or transformer, `predict_outputs` the only one that knows how
guidance branches are stacked; `denoise` is the only loop. Guidance is a function that is passed in, and whoever wants
to measure something iterates over the steps. A family says what its denoiser is told of a prompt (`encode_one`) and how
(`conditions`): Stable Diffusion 1 and 2 at the end of this file, the others in memorization/models/.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from attn_utils import (
    AttentionStore,
    CrossAttentionStore,
    cross_attention_layers,
    down_cross_layers,
    record_cross_attention,
)
from memorization.decoding import LatentImages
from noise_norms import NoisePrediction, noise_scales


@dataclass(frozen=True)
class DenoiseStep:
    """One finished step. Tensors are (images, channels, height, width)."""

    index: int  # 0 is the noisiest
    timestep: float  # a whole number but with flow matching
    latents: torch.Tensor  # x_t, what the denoiser saw
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
    transformer_id: str | None = None
    vae_id: str | None = None
    config: str | None = None  # what a single file's configs and tokenizer are of
    lora: tuple[str, ...] = ()  # with their scales
    embedding: tuple[str, ...] = ()
    former_scheduler: bool = True  # whether the scheduler's values are those before other classes were read right


class DenoisingPipeline(LatentImages, DiffusionPipeline):
    """`denoise`, the loop as a generator, and what it needs around it: mixed into a pipeline class of diffusers.

    What a prompt says is one tensor, (images, rows, dim), whatever the family: the features of its tokens in the first
    rows, and behind them what else the denoiser is conditioned on. So images and branches are
    stacked, picked and optimised the same way in all of them.

    Attributes:
        denoiser_name: the part that predicts, `unet` or `transformer`.
        default_guidance_scale: what diffusers guides with where nothing is given.
        joins_branches: whether all branches are one call of the denoiser.
        is_distilled: whether guidance is in the prompt's prediction already.
        embedded_guidance: the scale that a distilled denoiser is told; see `set_guidance`.
        has_begin_token: whether the first row is a begin token's.
        lacks: what some methods need and the family does not have (memorization/needs.py), each with the reason.
        num_unet_evals: evaluations of single samples since loading (a guided step on one image is two).
        num_unet_gradients: backward passes and tangents of single samples, counted by who takes them.
        grad_batch_size: images that a gradient is taken of at a time; None takes as many as fit, see gradients.py.
        loaded_from: where `load_pipeline` found it; None of a pipeline that was put together in memory.
        base: the model before it was tuned, if given, for what compares with it.
    """

    family_name = "Stable Diffusion"  # in messages
    denoiser_name = "unet"
    default_guidance_scale = 7.5
    joins_branches = True
    is_distilled = False
    embedded_guidance = 0.0
    has_begin_token = True
    lacks: Mapping[str, str] = MappingProxyType({})
    num_unet_evals = 0
    num_unet_gradients = 0
    grad_batch_size: int | None = None
    empty_embeds = None
    loaded_from: Source | None = None
    base: "DenoisingPipeline | None" = None
    scheduler: Any
    tokenizer: Any
    text_encoder: Any
    maybe_convert_prompt: Callable[..., str]

    def encode_one(self, prompt: str) -> torch.Tensor:
        """What the denoiser is told of one prompt, (1, rows, dim); of the empty one, what guidance starts from."""
        raise NotImplementedError

    def conditions(self, embeds: torch.Tensor, latents: torch.Tensor) -> dict[str, Any]:
        """Its arguments for features (samples, rows, dim) and latents (samples, channels, height, width)."""
        raise NotImplementedError

    def predict_noise(self, latents: torch.Tensor, t: float, embeds: Sequence[torch.Tensor]) -> NoisePrediction:
        """One call for all branches.

        Args:
            latents: x_t, shape (images, channels, height, width).
            t: timestep; a plain number, as reading one back from a GPU would wait for all that is queued there.
            embeds: text features per branch, uncond first, each (images, tokens, dim).

        Returns:
            `NoisePrediction` with the branches in the order of `embeds`.
        """
        return NoisePrediction(
            self.predict_outputs(latents, t, embeds), latents, *self.noise_scales(t), self.is_distilled
        )

    def predict_outputs(
        self, latents: torch.Tensor, t: float, embeds: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """What the denoiser itself gives for each branch, as `predict_noise` takes them; at any t."""
        if not self.joins_branches:
            return tuple(self.call_denoiser(latents, t, branch) for branch in embeds)
        return self.call_denoiser(torch.cat([latents] * len(embeds)), t, torch.cat(tuple(embeds))).chunk(len(embeds))

    def call_denoiser(self, sample: torch.Tensor, t: float, embeds: torch.Tensor) -> torch.Tensor:
        """Outputs for latents (samples, channels, height, width) and features (samples, rows, dim), as the latents."""
        self.num_unet_evals += len(sample)
        conditions = {"timestep": self.timestep_input(t, sample)} | self.conditions(embeds, sample)
        return self.as_latents(self.denoiser(self.sample_input(sample, t), **conditions, return_dict=False)[0], sample)

    def sample_input(self, sample: torch.Tensor, t: float) -> torch.Tensor:
        """Latents as the denoiser takes them."""
        return self.scheduler.scale_model_input(sample, t)

    def timestep_input(self, t: float, sample: torch.Tensor) -> torch.Tensor:
        return torch.full((), t, dtype=torch.int64, device=sample.device)  # filled there, not copied

    def as_latents(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """An output in the shape of the latents that it is for."""
        return output

    def noise_scales(self, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(d eps / d output, d eps / d x_t) at timestep t; see `noise_norms.noise_scales`."""
        return noise_scales(self.scheduler, t)

    def set_guidance(self, guidance_scale: float) -> None:
        """Say what is guided with, for denoisers that are told; `denoise` does, others measure before it or after."""
        self.embedded_guidance = guidance_scale
        if self.base is not None:
            self.base.set_guidance(guidance_scale)

    def set_timesteps(self, num_inference_steps: int, latents: torch.Tensor | None = None) -> list[float]:
        """Plan a generation; its timesteps, the noisiest first, as plain numbers.

        Args:
            latents: of the size that is generated, which the steps of some families depend on; by default the model's.
        """
        self.scheduler.set_timesteps(num_inference_steps)
        return self.scheduler.timesteps.tolist()

    @torch.no_grad()
    def denoise(
        self,
        latents: torch.Tensor,
        embeds: Sequence[torch.Tensor],
        num_inference_steps: int = 50,
        guidance: Guidance | None = None,
        guidance_scale: float | None = None,
        stop_after: int | None = None,
        around_step: Callable[[int, bool], AbstractContextManager] | None = None,
        first_uncond: torch.Tensor | None = None,
    ) -> Iterator[DenoiseStep]:
        """Run the reverse process, yielding a `DenoiseStep` after each step. Nothing in it waits for the device.

        Args:
            latents: initial noise, shape (images, channels, height, width).
            embeds: text features per branch, uncond first, (images, tokens, dim); `guidance` gets a third's output.
            guidance: maps a `NoisePrediction` to the model output the scheduler gets; default is
                classifier-free guidance at `guidance_scale`, by default the family's usual one.
            stop_after: end after so many of the steps; None makes them all.
            around_step: makes out of (index, is_last) the context of a step's call, where attention is recorded.
            first_uncond: unconditional output of the first step, shaped as `latents`, if known: not evaluated again.
        """
        scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
        self.set_guidance(scale)
        timesteps = self.set_timesteps(num_inference_steps, latents)[:stop_after]
        for index, t in enumerate(timesteps):
            known = () if index or first_uncond is None else (first_uncond,)
            with around_step(index, index == len(timesteps) - 1) if around_step else nullcontext():
                prediction = self.predict_noise(latents, t, embeds[len(known) :])
            prediction = replace(prediction, outputs=(*known, *prediction.outputs))
            noise_pred = prediction.guided(scale) if guidance is None else guidance(prediction)
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
                    stack.enter_context(self.recording(some, len(embeds)))
            return stack

        for step in self.denoise(latents, embeds, around_step=around_step, **denoise_kwargs):
            if callback is not None:
                callback(step)
        return step.next_latents

    def recording(self, store: CrossAttentionStore, num_branches: int) -> AbstractContextManager[CrossAttentionStore]:
        """The context of a step whose attention the store records; `num_branches` are all that the step has."""
        store.num_branches = num_branches if self.joins_branches else 1
        return record_cross_attention(self.denoiser, store)

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

    @property
    def mask_layers(self) -> list[str]:
        """Attention layers whose mean is the bright-ending mask."""
        return down_cross_layers(self.denoiser)

    @property
    def map_layers(self) -> list[str]:
        """All attention layers that read the prompt."""
        return cross_attention_layers(self.denoiser)

    def attention_store(self, layers: Sequence[str], tokens: torch.Tensor | None, padding: bool) -> CrossAttentionStore:
        """What records attention to the end token, and to what is behind it: arguments of `AttentionStore`."""
        return AttentionStore(layers, tokens, padding=padding)

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

    def end_rows(self, prompt: str) -> int | list[int]:
        """The row of the end token among the features; rows, where several encoders have one each."""
        return self.end_token(prompt)

    def truncated_text(self, prompt: str) -> str:
        """The end of the prompt that does not fit into the model's limit; empty when all of it does."""
        ids = self.tokenizer(self.written_out(prompt)).input_ids
        return self.tokenizer.decode(ids[self.tokenizer.model_max_length - 1 : -1]).strip()


class LocalStableDiffusionPipeline(DenoisingPipeline, StableDiffusionPipeline):
    """Stable Diffusion 1.x and 2.x."""

    def encode_one(self, prompt: str) -> torch.Tensor:
        return self.encode_prompt(prompt, self._execution_device, 1, False)[0]

    def conditions(self, embeds: torch.Tensor, latents: torch.Tensor) -> dict[str, Any]:
        return {"encoder_hidden_states": embeds}
