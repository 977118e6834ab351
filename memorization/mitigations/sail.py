"""Starting noise in a flat place, searched among candidates (SAIL; Jeon et al.)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from memorization.errors import InputError, warn
from memorization.gradients import chunk_size, loss_scale
from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.mitigations.first_step import Embeds, norms, unit
from memorization.needs import NOISE
from memorization.released import SD1, SD1_NUMEL, SD2, SD2_NUMEL, family_of, size_scale
from optim_utils import first_timestep

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

# The code has 8.2 as default. The paper has 7.6 to 9 on Stable Diffusion 1 and 4 to 6 on 2, of which 5 is the middle.
RELEASED = {
    SD1: {"strength": 10, "lr": 0.05, "weight": 0.05, "target": 8.2, "candidates": 8},
    SD2: {"strength": 10, "lr": 0.05, "weight": 0.01, "target": 5, "candidates": 8},
}
CHOSEN_AT = {SD1: SD1_NUMEL, SD2: SD2_NUMEL}  # elements of the latents that the targets were chosen for
CANDIDATES, LR = 8, 0.05
RAISE = 0.1  # of the target, with every new seed
SEED_BOUND = 50000  # of new seeds
MOST_SEEDS = 10  # of an image; the released code goes on without end
EVALS = 4  # of a candidate's loss


@dataclass(frozen=True)
class FoundNoise:
    """Outcome of one image's search.

    Attributes:
        latents: the noise that was taken, (1, channels, height, width).
        loss: of it, at or below `target` unless the search was ended without.
        target: the threshold when it ended.
        iterations: losses of all candidates that were computed, over all seeds.
    """

    latents: torch.Tensor
    loss: float
    target: float
    iterations: int


@mitigation(
    "sail",
    knob="Adam steps on the starting noise",
    source="Jeon et al., ICML 2025",
    largest=10,
    sweep=(1, 2, 4, 7, 10),
    cost=lambda iterations, steps: EVALS * CANDIDATES * MOST_SEEDS * round(iterations),
    stops=True,
    reads="latents",
    released=RELEASED,
    revision=2,
    needs=(NOISE,),
)
def sail_generation(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Searches starting noise in a flat place among eight candidates, which are optimised.

    An image takes the first candidate whose loss is at or below `--optim_target_loss`, by default 8.2 on Stable
    Diffusion 1 and 5 on 2, times how much longer noise of the model's size is. Each image has candidates of its own.
    """
    target = default_target(images) if options.optim_target_loss is None else options.optim_target_loss
    refuse_unreachable(images, target)
    t, found = first_timestep(pipe, options.num_inference_steps), []
    for k, seed in enumerate(images.seeds):
        one = images.part(slice(k, k + 1))
        found.append(search_noise(pipe, one.latents, t, (one.negative, one.embeds()), seed, target, round(strength)))
        if found[-1].loss > found[-1].target:
            warn(
                f"sail took noise of loss {found[-1].loss:.3g} for the image of seed {seed}: none of "
                f"{MOST_SEEDS} seeds had one at or below {found[-1].target:.3g}"
            )
    latents, iterations = torch.cat([f.latents for f in found]), [f.iterations for f in found]
    evals = [EVALS * CANDIDATES * k for k in iterations]
    return always_acting(pipe, options, images, latents=latents, evals=evals, iterations=iterations)


def default_target(images: ImageBatch) -> float:
    """The released threshold, which is a length, at the size of these latents."""
    family = family_of(images.negative.shape[-1])
    return RELEASED[family]["target"] * size_scale(images.latents, CHOSEN_AT[family])


def refuse_unreachable(images: ImageBatch, target: float) -> None:
    """
    Raises:
        InputError: if the noise's own norm, which the loss holds, is beyond what the threshold can come to.
    """
    weight = RELEASED[family_of(images.negative.shape[-1])]["weight"]
    least, most = weight * images.latents[0].numel() ** 0.5, target + RAISE * (MOST_SEEDS - 1)
    if least > most:
        raise InputError(
            f"sail cannot end at {target:g}: {weight:g} times the norm of the noise is {least:.3g} alone, and the "
            f"threshold rises to {most:.3g} at most; raise --optim_target_loss"
        )
    if least > target:
        warn(f"{weight:g} times the norm of the noise is {least:.3g}, above the threshold {target:g}")


def search_noise(
    pipe: "DenoisingPipeline",
    like: torch.Tensor,
    t: float,
    embeds: Embeds,
    seed: int,
    target: float,
    num_steps: int,
) -> FoundNoise:
    """The noise of one image: the first candidate, by step and then by place, with a loss at or below the target.

    Where the candidates of a seed have none within `num_steps` losses each, the released code tries them twice more
    with the same outcome, which is left out; then the target rises by 0.1 and another seed is drawn from the generator.
    The released code does so without end. Here it ends after ten seeds, and the lowest loss seen is taken.

    Args:
        like: noise of this shape, dtype and device, (1, channels, height, width).
        embeds: of the empty prompt and of the prompt, each (1, tokens, dim).
        seed: of the candidates, of which the first is the image's own starting noise where `seed` is the image's.
    """
    best, lowest, iterations = like, float("inf"), 0
    for number in range(MOST_SEEDS):
        target += RAISE if number else 0
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn((CANDIDATES, *like.shape[1:]), generator=generator, dtype=like.dtype).to(like.device)
        latents, loss, spent = optimise_candidates(pipe, start, t, embeds, target, num_steps)
        iterations += spent
        if loss <= target:
            return FoundNoise(latents, loss, target, iterations)
        if loss < lowest:
            best, lowest = latents, loss
        seed = int(torch.randint(0, SEED_BOUND, (1,), generator=generator))
    return FoundNoise(best, lowest, target, iterations)


def optimise_candidates(
    pipe: "DenoisingPipeline",
    start: torch.Tensor,
    t: float,
    embeds: Embeds,
    target: float,
    num_steps: int,
) -> tuple[torch.Tensor, float, int]:
    """One attempt: Adam on all candidates together until one is at the target.

    Loss: ||diff(x + u)|| + weight ||x||, with u the unit diff at the candidate's start, whatever x has become; the
    gradient flows through u as well. The result of the last step is not tested.

    Returns:
        (latents taken (1, channels, height, width), its loss, losses computed of each candidate). Where none is at the
        target: of the lowest loss. A loss costs four evaluations and, but for the last, four gradients of a candidate.
    """
    weight = RELEASED[family_of(embeds[1].shape[-1])]["weight"]
    leaf = start.detach().float().clone().requires_grad_()
    optimizer, best, lowest = torch.optim.Adam([leaf], lr=LR), start[:1], float("inf")
    for step in range(num_steps):
        is_last = step == num_steps - 1
        losses = losses_and_gradients(pipe, leaf, start, t, embeds, weight, needs_gradient=not is_last)
        at_target = (losses <= target).nonzero()[:, 0].tolist()
        place = at_target[0] if at_target else int(losses.argmin())
        if at_target or float(losses[place]) < lowest:
            best, lowest = leaf[place : place + 1].detach().to(start.dtype).clone(), float(losses[place])
        if at_target:
            break
        optimizer.step()
    return best, lowest, step + 1


def losses_and_gradients(
    pipe: "DenoisingPipeline",
    leaf: torch.Tensor,
    start: torch.Tensor,
    t: float,
    embeds: Embeds,
    weight: float,
    needs_gradient: bool,
) -> torch.Tensor:
    """Loss of each candidate, (candidates,); with `needs_gradient` leaves the gradient of their sum in `leaf.grad`."""
    size, scale = chunk_size(pipe, start, EVALS), loss_scale(start.dtype)
    gradient, losses = torch.zeros_like(leaf), []
    for k in range(0, len(leaf), size):
        some = slice(k, k + size)
        with torch.set_grad_enabled(needs_gradient):
            x = leaf[some].detach().requires_grad_(needs_gradient)
            text = torch.cat([branch.expand(len(x), -1, -1) for branch in embeds])
            # The values of the start, with the gradient of where the candidate is now. Both branches get a copy of
            # their own, as in the released code: Adam makes much of how a gradient near 0 is rounded.
            both = torch.cat([x] * 2)
            origin = torch.cat([start[some]] * 2).float() + (both - both.detach())
            moved = x + unit(noise_diff(pipe, origin.to(start.dtype), t, text))
            loss = norms(noise_diff(pipe, torch.cat([moved] * 2).to(start.dtype), t, text)) + weight * norms(x)
            if needs_gradient:
                gradient[some] = torch.autograd.grad(scale * loss.sum(), x)[0] / scale
                pipe.num_unet_gradients += EVALS * len(x)
        losses.append(loss.detach())
    leaf.grad = gradient if needs_gradient else None
    return torch.cat(losses)


def noise_diff(pipe: "DenoisingPipeline", latents: torch.Tensor, t: float, text: torch.Tensor) -> torch.Tensor:
    """The text-conditional part as the released code has it, (images, channels, height, width).

    For v-prediction the code takes the output for the picture: the predicted noise's difference comes out turned around
    and longer by 1 / sqrt(1 - alpha_bar), which is 1.002 at the first step of Stable Diffusion 2.

    Args:
        latents: once for each branch, (2 * images, channels, height, width).
        text: features of the empty prompt and then of the prompt, (2 * images, tokens, dim).
    """
    prediction = pipe.predict_noise(latents, t, (text,))
    uncond, conditional = prediction.outputs[0].chunk(2)
    diff = prediction.noise_scale * (conditional - uncond)
    if pipe.scheduler.config.prediction_type != "v_prediction":
        return diff
    return -diff / (1 - pipe.scheduler.alphas_cumprod[t].to(diff.device)).sqrt()
