"""Published mitigations that `inference_mem.py --method` chooses, each with one knob, `--strength`.

At strength 0 every one of them is plain generation, bit for bit. They act on every image, memorized or not: what that
does to ordinary prompts is a matter of measurement.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch

from attention_edits import CrossAttentionEdit, edit_cross_attention
from attn_utils import cross_attention_layers
from guidance import DelayedGuidance, RepellingGuidance, classifier_free_guidance
from latent_optim import leave_basin, lower_magnitude, sail
from metrics import noise_diff_norm
from mitigation import Mitigated, mitigate
from optim_utils import first_timestep

HAN_TAU = 900  # timestep down to which guidance is off
GUARD_SPIKES = (0.1, 0.3)  # z-score from which a token spikes, factor of its logit
OTHER_PADDING = "!"


@dataclass(frozen=True)
class Method:
    """A mitigation.

    Attributes:
        function: from (pipe, options, images, strength) to `Mitigated`.
        knob: what strength is.
        largest: of the strengths that mean something.
        source: where it was published.
        stops: whether an image is done at or below --optim_target_loss, where that is given.
    """

    function: object
    knob: str
    largest: float
    source: str
    stops: bool = False


def run_method(pipe, options, images, name, strength):
    """Generate a batch with a method out of `METHODS`; strength 0 is plain generation."""
    if strength == 0:
        return mitigate(pipe, replace(options, optim_target_loss=None), images)  # the target is the method's, not PE's
    return METHODS[name].function(pipe, options, images, strength)


def generate(pipe, options, images, latents=None, text=None, guidance=None, edit=None, original=False, evals=0):
    """Denoise with what a method changed.

    Args:
        latents: other starting noise.
        text: other prompt embeddings, (images, tokens, dim).
        guidance: another guidance function.
        edit: a `CrossAttentionEdit` of branch 1.
        original: have the unchanged prompt as a third branch.
        evals: evaluations an image before, a number or a list.
    """
    count, steps = len(images), options.num_inference_steps
    branches = (images.negatives(count), images.embeds() if text is None else text)
    branches += (images.embeds(),) if original else ()
    guidance = guidance or partial(classifier_free_guidance, guidance_scale=options.guidance_scale)
    first = []

    def watch(step):
        if step.index == 0:
            first.append(noise_diff_norm(step.noise_diff))

    with nullcontext() if edit is None else edit_cross_attention(pipe.unet, edit):
        final = pipe.generate(
            images.latents if latents is None else latents, branches, callback=watch, guidance=guidance,
            num_inference_steps=steps,
        )  # fmt: skip
    evals = evals if isinstance(evals, list) else [evals] * count
    magnitudes = first[0].tolist()
    report = {"triggered": [True] * count, "unet_evals": [e + len(branches) * steps for e in evals]}
    return Mitigated(final, report | {"magnitude_before": magnitudes, "magnitude_after": magnitudes})


def optimised_noise(pipe, options, images, strength, function, evals_an_iteration):
    """Methods that optimise the starting noise at the first step, `strength` iterations at most."""
    t, embeds = first_timestep(pipe, options.num_inference_steps), (images.negatives(len(images)), images.embeds())
    target = options.optim_target_loss
    latents, iterations = function(pipe, images.latents, t, embeds, round(strength), target)
    evals = [evals_an_iteration * k for k in iterations]
    result = generate(pipe, options, images, latents, evals=evals)
    result.report["iterations"] = iterations
    return result


def other_basin(pipe, options, images, strength):
    """Han et al., batch-wise: `leave_basin` so many times, and no guidance until tau."""
    t, embeds = first_timestep(pipe, options.num_inference_steps), (images.negatives(len(images)), images.embeds())
    latents = leave_basin(pipe, images.latents, t, embeds, round(strength))
    pipe.scheduler.set_timesteps(options.num_inference_steps)
    waiting = int((pipe.scheduler.timesteps > HAN_TAU).sum())
    guidance = DelayedGuidance(options.guidance_scale, waiting)
    return generate(pipe, options, images, latents, guidance=guidance, evals=4 * round(strength))


def delayed(pipe, options, images, strength, dynamic):
    waiting = round(strength * options.num_inference_steps)
    return generate(pipe, options, images, guidance=DelayedGuidance(options.guidance_scale, waiting, dynamic))


def padding_of(pipe, images):
    """Which tokens are behind the prompt's end token, bool (images, tokens)."""
    place = torch.arange(images.embeds().shape[1], device=images.latents.device)
    return place[None] > torch.tensor(images.end_tokens, device=place.device)[:, None]


def rescaled_attention(pipe, options, images, strength):
    """Ren et al.: the begin token's logit is multiplied by 1 + strength, padding gets no attention."""
    edit = CrossAttentionEdit(scale_begin=1 + strength, hidden=padding_of(pipe, images))
    return generate(pipe, options, images, edit=edit)


def other_padding(pipe, options, images, strength):
    """Kim and No: padded with "!" instead of the end token, and a share `strength` of the padding, the last, hidden."""
    padding = padding_of(pipe, images)
    shown = ((1 - strength) * padding.sum(1)).round()
    hidden = padding & (padding.cumsum(1) > shown[:, None])
    text = torch.cat([encode_padded(pipe, prompt, OTHER_PADDING) for prompt in images.prompts])
    return generate(pipe, options, images, text=text, edit=CrossAttentionEdit(hidden=hidden))


@torch.no_grad()
def encode_padded(pipe, prompt, padding):
    """Text features of a prompt with another word behind its end token, (1, tokens, dim)."""
    length = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(prompt, truncation=True, max_length=length).input_ids
    (word,) = pipe.tokenizer(padding).input_ids[1:-1][:1]
    padded = torch.tensor([ids + [word] * (length - len(ids))], device=pipe.device)
    return pipe.text_encoder(padded)[0].to(pipe.unet.dtype)


def attenuated(pipe, options, images, strength):
    """GUARD: spiking tokens attenuated in the down and mid blocks, and repelled from the original prediction."""
    layers = tuple(n for n in cross_attention_layers(pipe.unet) if n.startswith(("down_blocks", "mid_block")))
    edit = CrossAttentionEdit(num_branches=3, layers=layers, spikes=GUARD_SPIKES)
    guidance = RepellingGuidance(options.guidance_scale, strength, options.num_inference_steps)
    return generate(pipe, options, images, guidance=guidance, edit=edit, original=True)


def neurons_off(pipe, options, images, strength):
    """NeMo: a share `strength` of the value neurons, those furthest out of distribution on this prompt, give zero.

    The values depend on the text alone, so that activations need no UNet evaluation. An activation is the mean over
    tokens of a value's size; its z-score is taken over `options.ordinary_text`, and the share over all down and mid
    layers together.
    """
    modules = dict(pipe.unet.named_modules())
    layers = [n for n in cross_attention_layers(pipe.unet) if n.startswith(("down_blocks", "mid_block"))]
    scores = {}
    for name in layers:
        to_v = modules[name.removesuffix(".processor")].to_v
        ordinary, own = (to_v(text).float().abs().mean(1) for text in (options.ordinary_text, images.embeds()))
        scores[name] = (own - ordinary.mean(0)) / ordinary.std(0).clamp(min=1e-6)
    everything = torch.cat(list(scores.values()), 1)
    count = max(1, round(strength * everything.shape[1]))
    threshold = everything.topk(count, dim=1).values[:, -1:]
    values = {name: (z < threshold).float() for name, z in scores.items()}
    return generate(pipe, options, images, edit=CrossAttentionEdit(layers=tuple(layers), values=values))


METHODS = {
    "sail": Method(partial(optimised_noise, function=sail, evals_an_iteration=4),
                   "Adam steps on the starting noise", 10, "Jeon et al., ICML 2025", stops=True),
    "init_noise": Method(other_basin, "repetitions of the step out of the basin", 8, "Han et al., NeurIPS 2025"),
    "init_noise_adam": Method(partial(optimised_noise, function=lower_magnitude, evals_an_iteration=2),
                              "AdamW steps on the starting noise", 50, "Han et al., NeurIPS 2025", stops=True),
    "cfg_delay": Method(partial(delayed, dynamic=False), "share of steps without guidance", 1,
                        "Jain et al., CVPR 2025"),
    "cfg_delay_dynamic": Method(partial(delayed, dynamic=True), "largest share of steps without guidance", 1,
                                "Jain et al., CVPR 2025"),
    "attention_rescale": Method(rescaled_attention, "begin token's logit times 1 + strength", 1,
                                "Ren et al., ECCV 2024"),
    "padding_fix": Method(other_padding, "share of the padding that is hidden", 1, "Kim and No, 2026"),
    "attention_attenuate": Method(attenuated, "weight of the repulsion from the original", 10,
                                  "Zhao et al., ICML 2026"),
    "neuron_off": Method(neurons_off, "share of value neurons that are off", 1, "Hintersdorf et al., NeurIPS 2024"),
}  # fmt: skip
