"""GUARD against its released rule (Zhao et al., ICML 2026), written out: spikes, guidance, projection."""

import math

import numpy as np
import pytest
import torch

from attn_utils import cross_attention_layers, spiking_tokens
from helpers.pipelines import make_pipeline
from helpers.released_loops import guided_loop, image_batch, unet_output
from local_sd_pipeline import NoisePrediction
from memorization.mitigations.base import run_mitigation
from memorization.mitigations.batch import MitigationOptions
from memorization.mitigations.spikes import RepellingGuidance, projected

STEPS, CLOSE = 4, {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def world():
    pipe = make_pipeline(latent=8)
    return pipe, image_batch(pipe, ["the golden owl mug", "a large red heart"], [1, 2])


def spikes_by_hand(peaks, threshold):
    """One head's largest logits by token."""
    words = np.array(peaks[1:], dtype=np.float64)
    return [False, *((words - words.mean()) / (words.std(ddof=1) + 1e-6) > threshold)]


def test_spikes_are_found_in_each_head_by_its_own_largest_logits():
    logits = torch.tensor(
        [
            [[9.0, 0.1, -0.3, 2.0, -4.0], [8.0, 0.2, 0.4, -9.0, -5.0]],  # the third word spikes
            [[-9.0, 3.0, 0.0, -1.0, -1.0], [-9.0, -3.0, 3.1, -2.0, -7.0]],  # the first two do, the begin token never
        ]
    )[None]
    found = spiking_tokens(logits, 0.5)
    assert found.tolist() == [
        [spikes_by_hand(head, 0.5) for head in ([9.0, 0.2, 0.4, 2.0, -4.0], [0, 3.0, 3.1, -1, -1])]
    ]
    assert found[0].tolist() == [[False, False, False, True, False], [False, True, True, False, False]]


def test_the_spread_of_logits_is_the_unbiased_one():
    """Of the z-scores of (0, 0, 1) the largest is 1.1547 unbiased and 1.4142 biased."""
    logits = torch.tensor([5.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 4)
    assert spiking_tokens(logits, 1.15)[0, 0, 3] and not spiking_tokens(logits, 1.16)[0, 0, 3]
    assert not spiking_tokens(torch.ones(1, 1, 3, 4), 0.1).any()  # all alike: 1e-6 is added to no spread


class ReleasedAttention:
    """The released forward of a layer: heads beside the batch, spikes from the scores as they stand."""

    def __init__(self, threshold, factor):
        self.threshold, self.factor = threshold, factor

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        def to_heads(x):
            return torch.stack(x.chunk(attn.heads, dim=-1), 1).flatten(0, 1)

        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        q, k, v = to_heads(q), to_heads(k), to_heads(v)
        scores = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(q.shape[-1])
        for head in range(len(scores)):  # of every image
            spikes = torch.tensor(spikes_by_hand(scores[head].max(0).values.tolist(), self.threshold))
            scores[head][:, spikes] *= self.factor
        out = torch.bmm(scores.softmax(-1), v).unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


@torch.no_grad()
def attenuated_output(pipe, latents, t, text, threshold, factor):
    """The prompt's branch with the released attention in the down and mid blocks."""
    original = dict(pipe.unet.attn_processors)
    inside = [n for n in cross_attention_layers(pipe.unet) if n.split("_")[0] in ("down", "mid")]
    pipe.unet.set_attn_processor(original | {n: ReleasedAttention(threshold, factor) for n in inside})
    try:
        return unet_output(pipe, latents, t, text)
    finally:
        pipe.unet.set_attn_processor(original)


def projected_by_hand(towards, away):
    p, m = towards.flatten().double().numpy(), away.flatten().double().numpy()
    squares = (p @ p + 1e-8, m @ m + 1e-8)
    if p @ m / math.sqrt(squares[0]) / math.sqrt(squares[1]) <= 0.9:
        return towards
    return towards - float(np.clip(p @ m / squares[1], -2, 2)) * away


def mitigated(world, name, strength):
    pipe, images = world
    return run_mitigation(pipe, MitigationOptions(num_inference_steps=STEPS), images, name, strength).latents


@pytest.mark.parametrize(("name", "project"), [("guard", True), ("guard_unprojected", False)])
def test_guard_as_released(world, name, project):
    pipe, images = world
    finals = []
    for k in range(len(images)):
        one, text = images.part(slice(k, k + 1)), images.embeds()[k : k + 1]
        latents = one.latents
        pipe.scheduler.set_timesteps(STEPS)
        for i, t in enumerate(pipe.scheduler.timesteps.tolist()):
            uncond, original = unet_output(pipe, latents, t, one.negatives()), unet_output(pipe, latents, t, text)
            towards, away = attenuated_output(pipe, latents, t, text, 0.1, 0.3) - uncond, original - uncond
            towards = projected_by_hand(towards, away) if project else towards
            noise = uncond + 7.5 * towards - 2 * math.cos(math.pi * i / STEPS / 2) * away
            latents = pipe.scheduler.step(noise, t, latents, return_dict=False)[0]
        finals.append(latents)
    torch.testing.assert_close(mitigated(world, name, 2), torch.cat(finals), **CLOSE)


def test_attenuation_alone_as_released(world):
    pipe, images = world
    finals = []
    for k in range(len(images)):
        one, text = images.part(slice(k, k + 1)), images.embeds()[k : k + 1]
        latents = one.latents
        pipe.scheduler.set_timesteps(STEPS)
        for t in pipe.scheduler.timesteps.tolist():
            uncond = unet_output(pipe, latents, t, one.negatives())
            edited = attenuated_output(pipe, latents, t, text, 0.01, 0.3)
            latents = pipe.scheduler.step(uncond + 7.5 * (edited - uncond), t, latents, return_dict=False)[0]
        finals.append(latents)
    found = mitigated(world, "attention_attenuate", 0.7)
    torch.testing.assert_close(found, torch.cat(finals), **CLOSE)
    other = guided_loop(pipe, images, STEPS, lambda index, t, uncond, text, state: uncond + 7.5 * (text - uncond))
    assert (found - other).abs().max() > 1e-3  # the released rule does something here


def test_the_projection_by_hand():
    away = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    cases = {
        (4.0, 1.0): (0.0, 1.0),  # nearly parallel (0.97): what is along it goes
        (6.0, 1.0): (2.0, 1.0),  # three times as long: at most twice is taken away
        (4.0, 2.0): (4.0, 2.0),  # 0.894: let be
        (-4.0, 1.0): (-4.0, 1.0),  # against it: let be
        (0.0, 0.0): (0.0, 0.0),
    }
    towards = torch.tensor(list(cases)).view(-1, 1, 1, 2)
    found = projected(towards, away.expand(len(cases), -1, -1, -1)).flatten(1)
    torch.testing.assert_close(found, torch.tensor(list(cases.values())), rtol=0, atol=1e-6)


def test_repulsion_falls_along_a_quarter_of_a_cosine():
    u, e, o = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0)
    guidance = RepellingGuidance(7.5, 2.0, 4, project=False)
    found = [guidance(NoisePrediction((u, e, o), u, None, None)).mean().item() for _ in range(4)]
    assert found == pytest.approx([7.5 - 4, 7.5 - 4 * 0.923880, 7.5 - 4 * 0.707107, 7.5 - 4 * 0.382683], abs=1e-4)
