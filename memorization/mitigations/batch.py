"""A batch of images on its way through a mitigation, and the one generation that all mitigations end in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from attn_utils import CrossAttentionEdit, edit_cross_attention
from noise_norms import noise_diff_norm

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, DenoisingPipeline, Guidance, NoisePrediction


@dataclass(frozen=True)
class MitigationOptions:
    """How images are made, and the strengths of methods that combine; None switches one off.

    Attributes:
        optim_target_loss: PE stops at or below this magnitude (with optim_lr, optim_iters), as do methods that
            optimise the starting noise.
        l_target_ss: SS looks for a prompt at or below this magnitude.
        l_target_pr, mag_thres_pr: PR re-anchors above the first, fully from the second.
        use_mask: magnitudes at the first step are weighted by the bright-ending mask.
        pr_mask: PR acts only where the mask is bright.
        ordinary_text: features of captions that are not memorized, (captions, tokens, dim), for methods that compare
            with them.
    """

    guidance_scale: float = 7.5
    num_inference_steps: int = 50
    optim_target_loss: float | None = None
    optim_lr: float = 0.05
    optim_iters: int = 10
    l_target_ss: float | None = None
    l_target_pr: float | None = None
    mag_thres_pr: float | None = None
    use_mask: bool = False
    pr_mask: bool = False
    ordinary_text: torch.Tensor | None = None


@dataclass(frozen=True)
class ImageBatch:
    """What a batch of images is made from; the images may be of different prompts.

    Attributes:
        latents: initial noise, shape (images, channels, height, width).
        seeds: one integer per image.
        candidates: per image the embeddings of its prompt and of the alternatives, (its candidates, tokens, dim).
        negative: the empty prompt's embedding, shape (1, tokens, dim).
        mask: bright-ending mask (images, 1, height, width), for `use_mask` and `pr_mask`.
        prompts, end_tokens: per image its prompt and the index of its end token, for methods that look at padding.
    """

    latents: torch.Tensor
    seeds: Sequence[int]
    candidates: Sequence[torch.Tensor]
    negative: torch.Tensor
    mask: torch.Tensor | None = None
    prompts: Sequence[str] = ()
    end_tokens: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.latents)

    def at(self, rows: torch.Tensor) -> "ImageBatch":
        """The images at some places, int64 (rows,)."""
        places = rows.tolist()
        return ImageBatch(
            self.latents[rows],
            [self.seeds[k] for k in places],
            [self.candidates[k] for k in places],
            self.negative,
            None if self.mask is None else self.mask[rows],
            [self.prompts[k] for k in places] if self.prompts else (),
            [self.end_tokens[k] for k in places] if self.end_tokens else (),
        )

    def chunks(self, size: int) -> list["ImageBatch"]:
        """The batch in pieces of at most `size` images."""
        return [self.part(slice(k, k + size)) for k in range(0, len(self), size)]

    def part(self, some: slice) -> "ImageBatch":
        return ImageBatch(
            self.latents[some],
            self.seeds[some],
            self.candidates[some],
            self.negative,
            None if self.mask is None else self.mask[some],
            self.prompts[some],
            self.end_tokens[some],
        )

    def embeds(self, choice: Sequence[int] | None = None) -> torch.Tensor:
        """Embedding of each image's prompt, or of the chosen candidate, (images, tokens, dim)."""
        return torch.stack([c[k] for c, k in zip(self.candidates, choice or [0] * len(self), strict=True)])

    def padding(self, length: int) -> torch.Tensor:
        """Which of the encoder's `length` tokens are behind the prompt's end token, bool (images, tokens)."""
        place = torch.arange(length, device=self.latents.device)
        return place[None] > torch.tensor(self.end_tokens, device=place.device)[:, None]

    def negatives(self, count: int | None = None) -> torch.Tensor:
        """The empty prompt's embedding, once per image."""
        return self.negative.expand(len(self) if count is None else count, -1, -1)


@dataclass(frozen=True)
class Mitigated:
    """Final latents of a batch and what happened to each image: lists with one entry per image.

    Attributes:
        latents: (images, channels, height, width).
        magnitude_before, magnitude_after: D at the first step, of the prompt as it was and as it was used.
        triggered: whether the method acted.
        unet_evals: evaluations spent on the image.
        choice: candidate that SS chose.
        iterations: of methods that optimise.
        latent_norms: of the starting noise as used, of methods that change it; noise of n elements has about sqrt(n).
    """

    latents: torch.Tensor
    magnitude_before: list[float]
    magnitude_after: list[float]
    triggered: list[bool]
    unet_evals: list[int]
    choice: list[int] | None = None
    iterations: list[int] | None = None
    latent_norms: list[float] | None = None

    def split(self, count: int) -> list["Mitigated"]:
        """One per prompt, of `count` images each."""
        return [self.part(slice(k, k + count)) for k in range(0, len(self.latents), count)]

    def part(self, some: slice) -> "Mitigated":
        return Mitigated(
            self.latents[some],
            self.magnitude_before[some],
            self.magnitude_after[some],
            self.triggered[some],
            self.unet_evals[some],
            None if self.choice is None else self.choice[some],
            None if self.iterations is None else self.iterations[some],
            None if self.latent_norms is None else self.latent_norms[some],
        )

    @classmethod
    def join(cls, pieces: Sequence["Mitigated"]) -> "Mitigated":
        """The outcome of several batches under one method as one."""
        first = pieces[0]
        return cls(
            torch.cat([p.latents for p in pieces]),
            [v for p in pieces for v in p.magnitude_before],
            [v for p in pieces for v in p.magnitude_after],
            [v for p in pieces for v in p.triggered],
            [v for p in pieces for v in p.unet_evals],
            None if first.choice is None else [v for p in pieces for v in p.choice or ()],
            None if first.iterations is None else [v for p in pieces for v in p.iterations or ()],
            None if first.latent_norms is None else [v for p in pieces for v in p.latent_norms or ()],
        )


def denoise_with(
    pipe: "DenoisingPipeline",
    options: MitigationOptions,
    images: ImageBatch,
    *,
    latents: torch.Tensor | None = None,
    text: torch.Tensor | None = None,
    guidance: "Guidance | None" = None,
    edits: Sequence[CrossAttentionEdit] = (),
    with_original: bool = False,
    branches: Sequence[torch.Tensor] | None = None,
    measured: int = 1,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, list[float]]:
    """Generate with what a method changed: the one generation that all mitigations end in.

    Args:
        latents: other starting noise.
        text: other prompt embeddings, (images, tokens, dim).
        guidance: another guidance than classifier-free guidance at `options.guidance_scale`.
        edits: of the cross-attention, each of one branch.
        with_original: have the unchanged prompt as a branch behind the changed one.
        branches: text features of all branches, in place of `text` and the original.
        measured: branch whose magnitude at the first step is taken.
        mask: weighs that magnitude, (images, 1, height, width).

    Returns:
        (final latents (images, channels, height, width), magnitude of each image at the first step).
    """
    if branches is None:
        branches = [images.negatives(), images.embeds() if text is None else text]
        branches += [images.embeds()] if with_original else []
    first: list[torch.Tensor] = []

    def watch(step: "DenoiseStep") -> None:
        if step.index == 0:
            first.append(noise_diff_norm(step.prediction.diff(measured, 0), mask))

    with edit_cross_attention(pipe.denoiser, *edits):
        final = pipe.generate(
            images.latents if latents is None else latents,
            tuple(branches),
            callback=watch,
            guidance=guidance,
            guidance_scale=options.guidance_scale,
            num_inference_steps=options.num_inference_steps,
        )
    return final, first[0].tolist()


def always_acting(
    pipe: "DenoisingPipeline",
    options: MitigationOptions,
    images: ImageBatch,
    *,
    evals: Sequence[int] | None = None,
    iterations: list[int] | None = None,
    **changes,
) -> Mitigated:
    """`Mitigated` of a method that acts on every image.

    Args:
        evals: evaluations spent on each image before the generation.
        iterations: of each image, of methods that optimise.
        **changes: of `denoise_with`.
    """
    final, magnitudes = denoise_with(pipe, options, images, **changes)
    branches = 3 if changes.get("with_original") else 2
    before = [0] * len(images) if evals is None else evals
    start = changes.get("latents")
    return Mitigated(
        final,
        magnitude_before=magnitudes,
        magnitude_after=magnitudes,
        triggered=[True] * len(images),
        unet_evals=[e + branches * options.num_inference_steps for e in before],
        iterations=iterations,
        latent_norms=None if start is None else start.float().flatten(1).norm(dim=1).tolist(),
    )


def plain_generation(pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch) -> Mitigated:
    """Generation without a mitigation: what strength 0 of every method is."""
    return replace(always_acting(pipe, options, images), triggered=[False] * len(images))


@dataclass
class DelayedGuidance:
    """Another guidance scale in the first steps, the ordinary one after.

    At 0, the scale of the first steps follows the unconditional prediction, at 1 the conditional one.

    Attributes:
        num_steps: the first so many.
        index: of the latest step.
    """

    guidance_scale: float
    num_steps: int
    first_scale: float = 0.0
    index: int = -1

    def __call__(self, prediction: "NoisePrediction") -> torch.Tensor:
        self.index += 1
        return prediction.guided(self.first_scale if self.index < self.num_steps else self.guidance_scale)


def steps_above(pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, timestep: float) -> int:
    """How many of the steps are noisier than a timestep; one that is exactly there does not count."""
    return sum(t > timestep for t in pipe.set_timesteps(options.num_inference_steps, images.latents))
