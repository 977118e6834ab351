"""Optimisation at the first step: prompt embeddings (PE), semantic search (SS), prompt re-anchoring (PR), noise.

All of it decides for every image on its own: no norm runs over a batch, so thresholds do not depend on
how many images are made at once. None contains a loop over timesteps. PE and SS work at the first step
and return prompt embeddings; PR is a guidance function for `denoise`. `descend` is the descent that all
methods share which lower a loss per image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attn_utils import fit_mask
from memorization.gradients import chunk_size, loss_scale
from noise_norms import noise_diff_norm

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline, NoisePrediction


@dataclass(frozen=True)
class PromptOptimResult:
    """Optimised embeddings (images, tokens, dim) and, per image, the losses in the order they were seen."""

    prompt_embeds: torch.Tensor
    losses: list[list[float]]  # losses[k]: magnitude of image k before each iteration's update


@dataclass(frozen=True)
class SearchResult:
    """Outcome of `semantic_search`, lists with an entry per image; candidate 0 is the original prompt.

    Attributes:
        choice: index of the chosen candidate.
        magnitudes: those of the candidates evaluated, a list.
        triggered: whether the original prompt's magnitude exceeds the target.
    """

    choice: list[int]
    magnitudes: list[list[float]]
    triggered: list[bool]


def first_timestep(pipe: "DenoisingPipeline", num_inference_steps: int) -> float:
    """The noisiest timestep of a run, a plain number, where PE and SS measure."""
    return pipe.set_timesteps(num_inference_steps)[0]


@torch.no_grad()
def predict_uncond(
    pipe: "DenoisingPipeline", latents: torch.Tensor, t: float, negative_prompt_embeds: torch.Tensor
) -> torch.Tensor:
    """The unconditional branch alone: one evaluation per image, shared by all that compares with it."""
    return pipe.predict_noise(latents, t, (negative_prompt_embeds,)).outputs[0]


def text_magnitude(
    pipe: "DenoisingPipeline",
    latents: torch.Tensor,
    t: float,
    prompt_embeds: torch.Tensor,
    uncond: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """D_0, or LD_0 with a mask, given the unconditional output: one text evaluation per image.

    Gradients flow to `prompt_embeds` where they are enabled.

    Returns:
        float32 tensor (images,).
    """
    prediction = pipe.predict_noise(latents, t, (prompt_embeds,))
    noise_diff = prediction.noise_scale * (prediction.outputs[0] - uncond)
    return noise_diff_norm(noise_diff, mask)


def optimize_prompt_embeds(
    pipe: "DenoisingPipeline",
    latents: torch.Tensor,
    t: float,
    prompt_embeds: torch.Tensor,
    uncond: torch.Tensor,
    mask: torch.Tensor | None = None,
    lr: float = 0.05,
    num_iters: int = 10,
    target_loss: float | None = None,
) -> PromptOptimResult:
    """Lower the magnitude at the first step by gradient descent on the prompt embedding.

    Wen et al. (ICLR 2024), section 5; with `mask` the loss is LD_0 of Chen et al. (ICLR 2025). AdamW with
    its default weight decay; the gradient of the begin token is zeroed, so only weight decay moves it.
    Each image has its own embedding and leaves the batch once its loss is at or below the target: k
    iterations cost k evaluations, and one before for `uncond`.

    Args:
        latents: initial noise, shape (images, channels, height, width).
        t: first timestep.
        prompt_embeds: shape (images, tokens, dim).
        uncond: result of `predict_uncond`.
        mask: optional bright-ending mask (images, 1, height, width).
        target_loss: stop an image at or below it; None makes all iterations.

    Returns:
        `PromptOptimResult`; the embeddings have the dtype of `prompt_embeds`.
    """

    def loss(embeds: torch.Tensor, rows: list[int]) -> torch.Tensor:
        some_mask = None if mask is None else mask[rows]
        return text_magnitude(pipe, latents[rows], t, embeds, uncond[rows], some_mask)

    def keep_begin_token(gradient: torch.Tensor) -> None:
        gradient[:, 0] = 0

    embeds, losses = descend(
        pipe,
        prompt_embeds,
        loss,
        torch.optim.AdamW,
        lr,
        num_iters,
        target_loss,
        edit_gradient=keep_begin_token if pipe.has_begin_token else None,
        latents=latents,
    )
    return PromptOptimResult(embeds, losses)


def descend(
    pipe: "DenoisingPipeline",
    start: torch.Tensor,
    loss: Callable[[torch.Tensor, list[int]], torch.Tensor],
    optimizer_class: type[torch.optim.Adam] | type[torch.optim.AdamW],
    lr: float,
    num_iters: int,
    target: float | None = None,
    gradients: int = 1,
    edit_gradient: Callable[[torch.Tensor], None] | None = None,
    latents: torch.Tensor | None = None,
) -> tuple[torch.Tensor, list[list[float]]]:
    """Lower each image's loss; one at or below the target leaves the batch and is left alone from then on.

    An iteration goes through the images in chunks that fit into memory, `memorization.gradients.chunk_size`.

    Args:
        pipe: its `num_unet_gradients` counts what is spent.
        start: shape (images, ...).
        loss: from (some of the images still in the batch, their places, a list) to a tensor with one loss per image.
        optimizer_class: Adam or AdamW.
        target: None makes all iterations.
        gradients: of single samples, that an image's loss costs.
        edit_gradient: changes a gradient (1, ...) in place before it is used.
        latents: of the size that the UNet sees, (images, ...); by default `start` is of it.

    Returns:
        (values in the dtype of `start`, losses of each image before each update, lists).
    """
    leaves = [x.detach().float().clone().requires_grad_() for x in start.split(1)]
    optimizer = optimizer_class(leaves, lr=lr)
    losses: list[list[float]] = [[] for _ in leaves]
    active = list(range(len(leaves)))
    size, scale = chunk_size(pipe, start if latents is None else latents, gradients), loss_scale(start.dtype)

    def step_back(places: list[int]) -> list[int]:
        """Losses of some images, and gradients of those that are above the target: their places."""
        with torch.enable_grad():
            values = loss(torch.cat([leaves[k] for k in places]).to(start.dtype), places)
        for k, value in zip(places, values.tolist(), strict=True):
            losses[k].append(value)
        keep = [target is None or losses[k][-1] > target for k in places]
        above = [k for k, kept in zip(places, keep, strict=True) if kept]
        if above:
            with torch.enable_grad():
                chosen = scale * values[torch.tensor(keep, device=values.device)].sum()
            for k, gradient in zip(above, torch.autograd.grad(chosen, [leaves[k] for k in above]), strict=True):
                if edit_gradient is not None:
                    edit_gradient(gradient)
                leaves[k].grad = gradient / scale
        return above

    for _ in range(num_iters):
        # Images that stopped get no gradient, and the optimiser leaves parameters without one alone.
        optimizer.zero_grad(set_to_none=True)
        before = len(active)
        active = [k for i in range(0, before, size) for k in step_back(active[i : i + size])]
        if not active:
            break
        pipe.num_unet_gradients += gradients * before
        optimizer.step()
    return torch.cat(leaves).detach().to(start.dtype), losses


@torch.no_grad()
def semantic_search(
    pipe: "DenoisingPipeline",
    latents: torch.Tensor,
    t: float,
    candidates: Sequence[torch.Tensor],
    uncond: torch.Tensor,
    target: float,
    mask: torch.Tensor | None = None,
) -> SearchResult:
    """Choose the first candidate prompt whose magnitude at the first step is at or below `target`.

    SS of Chen et al. (CVPR 2025). Where none is, the smallest of the alternatives is chosen, never the
    original itself, which would turn re-anchoring into plain generation without guidance. Each image looks
    at its own candidates, one per UNet call, which all images still searching share, and leaves when it has
    found one: c candidates cost c evaluations, and one before for `uncond`.

    Args:
        latents: initial noise, shape (images, channels, height, width).
        candidates: per image the embeddings of its prompts, the original first, (its candidates, tokens, dim).
        uncond: result of `predict_uncond`.
        mask: optional bright-ending mask (images, 1, height, width).

    Returns:
        `SearchResult`.
    """
    magnitudes: list[list[float]] = [[] for _ in candidates]
    searching = list(range(len(candidates)))
    while searching:
        embeds = torch.stack([candidates[k][len(magnitudes[k])] for k in searching])
        some_mask = None if mask is None else mask[searching]
        found = text_magnitude(pipe, latents[searching], t, embeds, uncond[searching], some_mask)
        for k, value in zip(searching, found.tolist(), strict=True):
            magnitudes[k].append(value)
        searching = [k for k in searching if magnitudes[k][-1] > target and len(magnitudes[k]) < len(candidates[k])]
    choice = [choose_candidate(m, target) for m in magnitudes]
    return SearchResult(choice, magnitudes, [m[0] > target for m in magnitudes])


def choose_candidate(magnitudes: Sequence[float], target: float) -> int:
    """Index of the first of one image's magnitudes at or below target, else of the smallest behind the first."""
    below = next((k for k, m in enumerate(magnitudes) if m <= target), None)
    if below is not None or len(magnitudes) == 1:
        return below or 0
    return min(range(1, len(magnitudes)), key=lambda k: magnitudes[k])


class PromptReanchoring:
    """Guidance that uses the memorized prompt as the anchor to move away from (PR).

    Chen et al. (CVPR 2025), with the ramp of the released code, decided at every step and for every
    image: with M the magnitude of the modified prompt, l the target and h the trigger norm,

        M <= l:  ordinary guidance with the modified prompt
        M > l:   eps = eps(e_p) + s_PR (eps(e_mod) - eps(e_p)) + (s - s_PR) (eps(e_mod) - eps(e_0)),
                 s_PR = min(1 + (s - 1) (M - l) / (h - l), s)

    which is continuous at l and at h. Branches: uncond, original prompt, modified prompt.

    With a mask (ours, unpublished) the result is used where the mask is bright and ordinary guidance
    with the ORIGINAL prompt elsewhere, in proportion to the mask over its maximum: what is not
    memorized stays what was asked for.
    """

    def __init__(
        self, guidance_scale: float, target_norm: float, trigger_norm: float, mask: torch.Tensor | None = None
    ):
        """
        Args:
            target_norm: l, magnitude at or below which nothing is re-anchored.
            trigger_norm: h, magnitude from which on re-anchoring is full.
            mask: optional bright-ending mask (images, 1, height, width).

        Raises:
            ValueError: if `trigger_norm` does not exceed `target_norm`.
        """
        if trigger_norm <= target_norm:
            raise ValueError(f"trigger_norm {trigger_norm} must exceed target_norm {target_norm}")
        self.guidance_scale, self.target_norm, self.trigger_norm = guidance_scale, target_norm, trigger_norm
        self.mask = mask

    def __call__(self, prediction: "NoisePrediction") -> torch.Tensor:
        uncond, original, modified = prediction.outputs
        s = self.guidance_scale
        magnitude = noise_diff_norm(prediction.diff(2, 0)).view(-1, 1, 1, 1)
        ramp = (magnitude - self.target_norm) / (self.trigger_norm - self.target_norm)
        s_pr = (1 + (s - 1) * ramp).clamp(max=s).to(uncond.dtype)
        ordinary = uncond + s * (modified - uncond)
        reanchored = original + s_pr * (modified - original) + (s - s_pr) * (modified - uncond)
        guided = torch.where(magnitude <= self.target_norm, ordinary, reanchored)
        if self.mask is None:
            return guided
        weight = relative_mask(self.mask, uncond.shape[-2:]).to(uncond.dtype)
        as_asked = uncond + s * (original - uncond)
        return weight * guided + (1 - weight) * as_asked


def relative_mask(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The mask over its maximum, in [0, 1], at the latent's size."""
    mask = fit_mask(mask, size)
    return mask / mask.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(mask.dtype).tiny)


def add_embedding_noise(
    branches: Sequence[torch.Tensor], scale: float, seeds: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """Gaussian noise on the text embeddings of all branches (GNI; Somepalli et al., NeurIPS 2023).

    Args:
        branches: embeddings by branch, each (images, tokens, dim); the noise is independent between them.
        scale: standard deviation, in the embedding's units.
        seeds: one integer per image, not the one of its starting noise; the noise of an image depends on it alone.

    Returns:
        The branches with their noise, each (images, tokens, dim).
    """
    shape = (len(branches), *branches[0].shape[1:])
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds], 1)
    return tuple(b + scale * n.to(b) for b, n in zip(branches, noise, strict=True))
