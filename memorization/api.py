"""Detection and mitigation in memory, for notebooks and other programs: what the scripts do, without their files.

Numbers and images are those of the scripts: image k of prompt i depends on (gen_seed, i, k) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from local_sd_pipeline import DenoisingPipeline
from memorization.data.prompts import PromptRecord
from memorization.data.sources import token_texts
from memorization.errors import InputError
from memorization.mitigations.base import MITIGATIONS, Mitigation, run_mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions
from memorization.mitigations.options import measures_first_step, preset_strength
from memorization.models.observed import observe_pipeline
from memorization.needs import refuse_undefined, undefined_needs
from memorization.observation import Observation, Recorded, make_inputs, observe_batches
from memorization.ordinary import ordinary_text
from memorization.runs.chosen_detectors import Abilities, choose_detectors
from memorization.runs.first_step import look_at_first_step, refuse_blind_exit, refuse_blind_method
from memorization.runs.images import decode_images
from memorization.sampling import Sampling
from memorization.scores import MAGNITUDE, image_scores

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Prompts = str | PromptRecord | Sequence[str | PromptRecord]


@dataclass(frozen=True)
class DetectedPrompt:
    """What `detect` finds of a prompt.

    Attributes:
        prompt, index, seeds: what its images are made from.
        scores: by row key, (images,) or (images, steps); higher = memorized.
        images: uint8 (images, height, width, 3); None after an early exit.
        mask: bright-ending mask, float32 (images, height, width); None after an early exit.
        observation: tensors of the generation, on the CPU; None of a pipeline that is observed from outside.
    """

    prompt: str
    index: int
    seeds: list[int]
    scores: dict[str, np.ndarray]
    images: np.ndarray | None
    mask: np.ndarray | None
    observation: Observation | None

    def score(self, key: str = MAGNITUDE, T: int | None = 1) -> float:
        """The prompt's score: the mean over its images, of the first T steps where it has steps (None: all)."""
        return float(image_scores(self.scores, key, T).mean())


@dataclass(frozen=True)
class MitigatedPrompt:
    """What `mitigate` makes of a prompt: images, uint8 (images, height, width, 3), and a list entry per image."""

    prompt: str
    index: int
    seeds: list[int]
    images: np.ndarray
    magnitude_before: list[float]
    magnitude_after: list[float]
    triggered: list[bool]
    unet_evals_per_image: float


def as_records(prompts: Prompts) -> list[PromptRecord]:
    """Prompts as records; plain texts are numbered from 0.

    Raises:
        InputError: if there are none.
    """
    given = [prompts] if isinstance(prompts, str | PromptRecord) else list(prompts)
    if not given:
        raise InputError("there are no prompts; give a text, or a list of texts or records")
    return [p if isinstance(p, PromptRecord) else PromptRecord(k, p, p) for k, p in enumerate(given)]


def detect(
    pipe: "DenoisingPipeline | DiffusionPipeline",
    prompts: Prompts,
    scores: str | None = None,
    early_exit: int | None = None,
    store_maps: bool = False,
    **sampling,
) -> list[DetectedPrompt]:
    """Generate prompts and measure how much each looks memorized.

        pipe = memorization.load_pipeline("planted_sd")
        (found,) = memorization.detect(pipe, "the wild owl poster")
        found.score()                                    # D at the first step
        found.score("text_noise_norm_masked", T=None)    # LD over all steps

    Args:
        pipe: of `load_pipeline`; or any other text-to-image pipeline of diffusers with classifier-free guidance, which
            gives D and images alone.
        prompts: a text, or texts and records of `load_prompts`.
        scores: detectors beside those of every run: `all`, or names out of `DETECTORS` with commas.
        early_exit: stop after so many steps: no images, no masks.
        store_maps: keep end-token and padding attention of every layer in the observation.
        **sampling: num_images_per_prompt, num_inference_steps, guidance_scale, gen_seed, batch_size, grad_batch_size.

    Returns:
        One `DetectedPrompt` per prompt, in order.

    Raises:
        InputError: if a detector is unknown, or needs what this call does not have, or an image is not finite.
    """
    records, how = as_records(prompts), Sampling(**sampling)
    if not isinstance(pipe, DenoisingPipeline):
        if scores is not None or store_maps:
            raise InputError(f"{type(pipe).__name__} is observed from outside: D alone, no --scores and no maps")
        guidance = sampling.get("guidance_scale")  # by default the pipeline's own
        return [observe_prompt(pipe, r, how, guidance, early_exit) for r in tqdm(records, desc="detect", unit="prompt")]
    how = how.for_model(pipe)
    whole, is_blind = early_exit is None, look_at_first_step(pipe, how.num_inference_steps)
    refuse_blind_exit(is_blind, early_exit)
    abilities = Abilities(
        how.num_inference_steps,
        early_exit,
        how.num_images_per_prompt,
        has_mask=whole,
        is_blind=is_blind,
        has_base=pipe.base is not None,
        undefined=undefined_needs(pipe),
    )
    chosen = choose_detectors(scores, abilities)
    recorded = Recorded(
        layers=pipe.mask_layers if whole else (),
        map_layers=pipe.map_layers if store_maps and whole else (),
    )
    found = []
    for group in tqdm(how.groups(records), desc="detect", unit="group"):
        inputs = make_inputs(pipe, [r.prompt for r in group], [how.seeds(r) for r in group])
        observed = observe_batches(
            pipe,
            inputs,
            how.batch_size,
            recorded,
            detectors=chosen.detectors,
            num_inference_steps=how.num_inference_steps,
            guidance_scale=how.guidance_scale,
            stop_after=early_exit,
        )
        for record, one in zip(group, observed.split(how.num_images_per_prompt), strict=True):
            images = decode_images(pipe, one.latents, record.index, how.seeds(record)) if whole else None
            measured = dict(one.scores) | chosen.of_images(images)
            found.append(detected_prompt(record, how, measured, images, one))
    return found


def observe_prompt(
    pipe: "DiffusionPipeline", record: PromptRecord, how: Sampling, guidance_scale: float | None, stop_after: int | None
) -> DetectedPrompt:
    """A prompt by a pipeline of another family: D of each step, and its images."""
    seeds, steps = how.seeds(record), how.num_inference_steps
    found = observe_pipeline(
        pipe, record.prompt, seeds, num_inference_steps=steps, guidance_scale=guidance_scale, stop_after=stop_after
    )
    scores = {MAGNITUDE: found.norms.numpy()}
    return DetectedPrompt(record.prompt, record.index, seeds, scores, found.images, None, None)


def detected_prompt(
    record: PromptRecord,
    how: Sampling,
    scores: dict[str, torch.Tensor],
    images: np.ndarray | None,
    observed: Observation,
) -> DetectedPrompt:
    return DetectedPrompt(
        record.prompt,
        record.index,
        how.seeds(record),
        {key: values.float().cpu().numpy() for key, values in scores.items()},
        images,
        None if observed.mask is None else observed.mask[:, 0].cpu().numpy(),
        observed,
    )


def mitigate(
    pipe: DenoisingPipeline,
    prompts: Prompts,
    method: str,
    strength: float | None = None,
    use_mask: bool = False,
    pr_mask: bool = False,
    target_loss: float | None = None,
    ordinary: str | None = None,
    **sampling,
) -> list[MitigatedPrompt]:
    """Generate prompts under a mitigation.

        pipe = memorization.load_pipeline("planted_sd")
        (plain,) = memorization.mitigate(pipe, "the wild owl poster", "pe", 0)
        (hidden,) = memorization.mitigate(pipe, "the wild owl poster", "pe", 0.5)

    Args:
        pipe: of `load_pipeline`.
        prompts: a text, or texts and records of `load_prompts`, whose paraphrases SS searches.
        method: a name out of `MITIGATIONS`.
        strength: its knob; 0 is plain generation, None what the method was released with.
        use_mask: weigh magnitudes with the bright-ending mask, for methods with the variant "be".
        pr_mask: re-anchor only where the mask is bright, for methods with the variant "prmask".
        target_loss: magnitude at which methods that optimise the starting noise stop.
        ordinary: data set of captions that methods compare with, as `--dataset` takes it; by default the bundled ones.
        **sampling: num_images_per_prompt, num_inference_steps, guidance_scale, gen_seed, batch_size, grad_batch_size.

    Returns:
        One `MitigatedPrompt` per prompt, in order.

    Raises:
        InputError: if the method is unknown, the strength or a variant is none of its, it measures what the model's
            first step does not show, or an image is not finite.
    """
    records, how, record_of_method = as_records(prompts), Sampling(**sampling), check_method(method, strength or 0)
    strength = preset_strength(record_of_method) if strength is None else strength
    if strength:
        refuse_undefined(method, record_of_method.needs, pipe)
    how = how.for_model(pipe)
    for wanted, variant in ((use_mask, "be"), (pr_mask, "prmask")):
        if wanted and variant not in record_of_method.variants:
            raise InputError(f"{method} has no variant {variant}; use it without")
    assert how.guidance_scale is not None  # by now it is the model's
    options = MitigationOptions(
        how.guidance_scale, how.num_inference_steps, optim_target_loss=target_loss, use_mask=use_mask, pr_mask=pr_mask
    )
    if look_at_first_step(pipe, how.num_inference_steps) and strength:
        flags = record_of_method.flags(strength) if record_of_method.flags else {"method": method, "strength": strength}
        refuse_blind_method(measures_first_step(flags), method)
    if record_of_method.compares:
        options = replace(options, ordinary_text=ordinary_text(pipe, ordinary))
    found = []
    for group in tqdm(how.groups(records), desc=method, unit="group"):
        images = image_batch(pipe, group, how, record_of_method, strength, with_mask=use_mask or pr_mask)
        pieces = [run_mitigation(pipe, options, batch, method, strength) for batch in images.chunks(how.batch_size)]
        for record, one in zip(group, Mitigated.join(pieces).split(how.num_images_per_prompt), strict=True):
            found.append(mitigated_prompt(pipe, record, how, one))
    return found


def check_method(name: str, strength: float) -> Mitigation:
    """
    Raises:
        InputError: if there is no such method, or the strength is beyond its bound, or no whole number where it has to
            be one.
    """
    method = MITIGATIONS.get_known(name, "mitigate()")
    if strength < 0 or (method.largest is not None and strength > method.largest):
        bound = "" if method.largest is None else f" to {method.largest:g}"
        raise InputError(f"strength of {name} is {method.knob}, from 0{bound}, not {strength}")
    if method.whole and strength != round(strength):
        raise InputError(f"strength of {name} is a whole number ({method.knob}), not {strength}")
    return method


def image_batch(
    pipe: DenoisingPipeline,
    group: Sequence[PromptRecord],
    how: Sampling,
    method: Mitigation,
    strength: float,
    with_mask: bool,
) -> ImageBatch:
    """What the images of some prompts are made from, their words changed where the method does that."""
    count, seeds = how.num_images_per_prompt, [how.seeds(r) for r in group]
    prompts = [r.prompt for r in group]
    if method.rewrite is not None and strength:
        texts = token_texts(pipe.tokenizer)
        prompts = [method.rewrite(p, round(strength), s[0], texts) for p, s in zip(prompts, seeds, strict=True)]
    encoded = [pipe.encode([p, *r.alternatives]) for p, r in zip(prompts, group, strict=True)]
    inputs = make_inputs(pipe, prompts, seeds)
    mask = None
    if with_mask:
        layers = Recorded(pipe.mask_layers)
        how_plain = {"num_inference_steps": how.num_inference_steps, "guidance_scale": how.guidance_scale}
        mask = observe_batches(pipe, inputs, how.batch_size, layers, **how_plain).mask
    return ImageBatch(
        latents=inputs.latents,
        seeds=inputs.seeds,
        candidates=[text for text, _ in encoded for _ in range(count)],
        negative=encoded[0][1][:1],
        mask=mask,
        prompts=[p for p in prompts for _ in range(count)],
        end_tokens=inputs.tokens.tolist(),
    )


def mitigated_prompt(pipe: "DenoisingPipeline", record: PromptRecord, how: Sampling, one: Mitigated) -> MitigatedPrompt:
    return MitigatedPrompt(
        record.prompt,
        record.index,
        how.seeds(record),
        decode_images(pipe, one.latents, record.index, how.seeds(record)),
        one.magnitude_before,
        one.magnitude_after,
        one.triggered,
        float(np.mean(one.unet_evals)),
    )
