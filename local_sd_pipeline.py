"""Stable Diffusion with its denoising loop in the open: written once, observed from outside.

`predict_noise` is the only place that calls the UNet and the only one that knows how guidance branches
are stacked; `denoise` is the only loop. Guidance is a function that is passed in, and whoever wants to
measure something iterates over the steps.
"""

import json
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from attn_utils import record_cross_attention
from guidance import classifier_free_guidance
from predictions import DenoiseStep, NoisePrediction


class LocalStableDiffusionPipeline(StableDiffusionPipeline):
    """Stable Diffusion 1.x and 2.x with `denoise`, the loop as a generator, and what it needs around it.

    Attributes:
        num_unet_evals: UNet evaluations of single samples since loading (a guided step on one image is
            two). Read it before and after a piece of work to know its cost.
        num_unet_gradients: backward passes and tangents of single samples, counted by who takes them.
    """

    num_unet_evals = 0
    num_unet_gradients = 0
    empty_embeds = None

    def predict_noise(self, latents, t, embeds):
        """One UNet call for all branches.

        Args:
            latents: x_t, shape (images, channels, height, width).
            t: timestep; a plain number, as reading one back from a GPU would wait for all that is queued there.
            embeds: text features per branch, uncond first, each (images, tokens, dim).

        Returns:
            `NoisePrediction` with the branches in the order of `embeds`.
        """
        sample = self.scheduler.scale_model_input(torch.cat([latents] * len(embeds)), t)
        self.num_unet_evals += len(sample)
        timestep = torch.full((), t, dtype=torch.int64, device=sample.device)  # filled there, not copied
        output = self.unet(sample, timestep, encoder_hidden_states=torch.cat(tuple(embeds)), return_dict=False)[0]
        return NoisePrediction(output.chunk(len(embeds)), latents, *self.noise_scales(t))

    def noise_scales(self, t):
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
        self, latents, embeds, num_inference_steps=50, guidance=None, stop_after=None, around_step=None
    ):  # fmt: skip
        """Run the reverse process, yielding a `DenoiseStep` after each step. Nothing in it waits for the device.

        A caller that needs only the first step stops iterating.

        Args:
            latents: initial noise, shape (images, channels, height, width).
            embeds: text features per branch, uncond first, each (images, tokens, dim). A third branch
                reaches `guidance` as a third output.
            guidance: maps a `NoisePrediction` to the model output the scheduler gets; default is
                classifier-free guidance at 7.5.
            stop_after: end after so many of the steps; None makes them all.
            around_step: makes out of (index, is_last) the context of a step's UNet call, where attention is recorded.
        """
        guidance = guidance or partial(classifier_free_guidance, guidance_scale=7.5)
        self.scheduler.set_timesteps(num_inference_steps)
        timesteps = self.scheduler.timesteps.tolist()[:stop_after]
        for index, t in enumerate(timesteps):
            with around_step(index, index == len(timesteps) - 1) if around_step else nullcontext():
                prediction = self.predict_noise(latents, t, embeds)
            noise_pred = guidance(prediction)
            next_latents = self.scheduler.step(noise_pred, t, latents, return_dict=False)[0]
            yield DenoiseStep(index, t, latents, prediction, noise_pred, next_latents)
            latents = next_latents

    def generate(self, latents, embeds, store=None, step_stores=None, callback=None, **denoise_kwargs):
        """Denoise to the end.

        Args:
            store: records the last step's attention.
            step_stores: dict from index to a store that records the attention of that step. All other steps run
                without any hook.
            callback: sees every `DenoiseStep`.

        Returns:
            Final latents, shape (images, channels, height, width).
        """

        def around_step(index, is_last):
            stack = ExitStack()
            for some in (store if is_last else None, (step_stores or {}).get(index)):
                if some is not None:
                    some.num_branches = len(embeds)
                    stack.enter_context(record_cross_attention(self.unet, some))
            return stack

        denoise_kwargs["around_step"] = around_step
        for step in self.denoise(latents, embeds, **denoise_kwargs):
            if callback is not None:
                callback(step)
        return step.next_latents

    @torch.no_grad()
    def encode(self, prompts):
        """Text features of the prompts and of the empty prompt, each (prompts, tokens, dim).

        Each prompt is encoded by itself, so that its features do not depend on its neighbours, and once; the
        empty prompt once for the life of the pipeline.
        """
        if self.empty_embeds is None:
            self.empty_embeds = self.encode_prompt("", self.device, 1, False)[0]
        embeds = {prompt: self.encode_prompt(prompt, self.device, 1, False)[0] for prompt in dict.fromkeys(prompts)}
        return torch.cat([embeds[p] for p in prompts]), self.empty_embeds.expand(len(prompts), -1, -1)

    @torch.no_grad()
    def decode(self, latents):
        """Images of final latents, uint8 array (images, height, width, 3).

        One at a time: the decoder of Stable Diffusion needs more memory per image than its UNet does.
        """
        return np.concatenate([self.decode_one(x) for x in latents.split(1)])

    def decode_one(self, latents):
        image = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        image = self.image_processor.postprocess(image, output_type="np")
        return (image * 255).round().astype("uint8")

    def initial_latents(self, seeds, image_length=None, joint_seed=None):
        """Starting noise, one CPU generator per image: image k depends on `seeds[k]` alone.

        Args:
            seeds: one integer per image.
            image_length: height and width in pixels; None takes the model's own.
            joint_seed: draw all images in one call from a generator with this seed instead, as the
                released code does; image k then depends on the number of images.

        Raises:
            ValueError: if `image_length` is not a multiple of what the UNet can halve.
        """
        size = image_length or self.unet.config.sample_size * self.vae_scale_factor
        multiple = self.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if size % multiple:
            raise ValueError(f"image_length {size} is not a multiple of {multiple}")
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        if joint_seed is not None:
            generators = torch.Generator().manual_seed(joint_seed)
        channels, dtype = self.unet.config.in_channels, self.unet.dtype
        return self.prepare_latents(len(seeds), channels, size, size, dtype, self.device, generators)

    def end_token(self, prompt):
        """Index of the prompt's first end token, the one that bright endings are read at."""
        return min(len(self.tokenizer(prompt).input_ids), self.tokenizer.model_max_length) - 1

    def truncated_text(self, prompt):
        """The end of the prompt that does not fit into the model's limit; empty when all of it does."""
        ids = self.tokenizer(prompt).input_ids
        kept = self.tokenizer.model_max_length - 1
        return self.tokenizer.decode(ids[kept:-1]).strip() if len(ids) - 1 > kept else ""


def load_pipeline(model_id, unet_id=None, device="auto", dtype="auto", channels_last=False, compile=False):
    """Load a Stable Diffusion 1.x or 2.x pipeline for measurement: DDIM, no safety checker, no gradients.

    Args:
        model_id: folder in diffusers' layout, or hub id.
        unet_id: folder or hub id of another UNet for it (a folder with a `unet` subfolder works too).
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: "auto" is float16 on CUDA and float32 elsewhere.
        channels_last: memory format of the UNet and the VAE; changes results by rounding alone.
        compile: torch.compile the UNet, at its first call; changes results by rounding alone.

    Raises:
        ValueError: one line that names the fault: not there, not Stable Diffusion, half precision on a
            device that lacks it.
    """
    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    kwargs = dict(safety_checker=None, requires_safety_checker=False, dtype=dtype)
    if unet_id is not None:
        kwargs["unet"] = load_unet(unet_id, dtype)
    check_model_folder(model_id)
    try:
        pipe = LocalStableDiffusionPipeline.from_pretrained(model_id, **kwargs)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"cannot load {model_id} as a Stable Diffusion pipeline: {first_line(error)}") from error
    if not isinstance(pipe.unet, UNet2DConditionModel):
        raise ValueError(f"{model_id} is not a Stable Diffusion 1.x or 2.x model: it has no UNet2DConditionModel")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.eval().requires_grad_(False)
    pipe.to(device)
    if channels_last:
        for module in (pipe.unet, pipe.vae):
            module.to(memory_format=torch.channels_last)
    if compile:
        pipe.unet.compile()
    return pipe


def check_model_folder(model_id):
    """Say early, and in one line, why a local path cannot be a Stable Diffusion folder."""
    path = Path(model_id)
    looks_local = path.exists() or model_id.startswith((".", "/", "~")) or model_id.count("/") != 1
    if not looks_local:
        return
    if not path.is_dir():
        raise ValueError(f"model folder {model_id} does not exist; give a diffusers folder or a hub id")
    index = path / "model_index.json"
    if not index.exists():
        raise ValueError(f"{model_id} is not a Stable Diffusion folder: it has no model_index.json")
    try:
        parts = json.loads(index.read_text())
        kinds = parts["unet"][1], parts["text_encoder"][1], "text_encoder_2" in parts
    except (ValueError, KeyError, TypeError, IndexError):
        kinds = None
    if kinds != ("UNet2DConditionModel", "CLIPTextModel", False):
        raise ValueError(f"{model_id} is not a Stable Diffusion 1.x or 2.x folder: see its model_index.json")


def load_unet(unet_id, dtype):
    subfolder = "unet" if (Path(unet_id) / "unet").is_dir() else None
    try:
        return UNet2DConditionModel.from_pretrained(unet_id, subfolder=subfolder, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load a UNet from {unet_id}: {first_line(error)}") from error


def pick_device(device):
    if device != "auto":
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
            raise ValueError(f"no device {device} here, or torch was built without it; use --device auto") from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype, device):
    if dtype == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
    dtype = getattr(torch, dtype)
    try:
        torch.nn.functional.conv2d(
            torch.ones(1, 1, 3, 3, dtype=dtype, device=device),
            torch.ones(1, 1, 3, 3, dtype=dtype, device=device),
        )
    except RuntimeError as error:
        raise ValueError(f"{device} cannot compute in {dtype} ({first_line(error)}); use --dtype float32") from error
    return dtype


def first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
