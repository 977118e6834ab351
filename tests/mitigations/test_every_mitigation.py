"""What every mitigation keeps: plain at strength 0, an image on its own, cost, processors restored."""

from dataclasses import replace

import pytest
import torch

from helpers.pipelines import make_pipeline
from memorization.mitigations import nemo
from memorization.mitigations.base import MITIGATIONS, plain_generation, run_mitigation
from memorization.mitigations.batch import ImageBatch, MitigationOptions

PROMPTS, SEEDS = ["the golden owl mug", "a large red heart on the left"], [1, 2, 3]
OTHERS = ["a mug of the golden owl", "one cup showing the golden owl"]
VOCABULARY = ["castle", "silver", "fish"]
# Where a method stops by itself: noise of 256 elements has a norm of 16, which is 0.8 of the loss of `sail`.
TARGETS = {"init_noise_adam": 1e-6, "sail": 0.85}
WEAKEST = {"init_noise_adam": 5, "nemo": 0.9}
AT_MOST = ("sail", "nemo")  # searches that end when they have found something


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def pipes(request):
    """Tiny pipelines by the size of their latents."""
    return {latent: make_pipeline(request.param, latent=latent) for latent in (8, 12)}


@pytest.fixture
def pipe(pipes, name, monkeypatch):
    # Every prompt of a random model is as if memorized, and a few neurons are enough here.
    for constant, value in {"GATE": -1, "SEEDS": 3, "ROUNDS": 4}.items():
        monkeypatch.setattr(nemo, constant, value)
    return pipes[12 if name == "nemo" else 8]  # it compares windows of 11 positions


def options_of(pipe, name):
    """Few steps, but as many as a tenth of them needs to be one."""
    words = pipe.encode(["a small blue square", "the silver castle", "green dots", "an orange fish poster"])[0]
    steps = 10 if MITIGATIONS[name].reads == "guidance" else 3
    return MitigationOptions(num_inference_steps=steps, ordinary_text=words, optim_target_loss=TARGETS.get(name))


def make_batch(pipe, name, strength):
    """Three images of two prompts, whose words are changed where the method does that."""
    rewrite = MITIGATIONS[name].rewrite
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    if rewrite is not None and strength:
        prompts = [rewrite(p, round(strength), 7, VOCABULARY) for p in prompts]
    candidates = [pipe.encode([p, *OTHERS])[0] for p in prompts]
    negative, ends = pipe.encode([""])[1], [pipe.end_token(p) for p in prompts]
    size = pipe.unet.config.sample_size
    mask = torch.rand(3, 1, size, size, generator=torch.Generator().manual_seed(0))
    return ImageBatch(pipe.initial_latents(SEEDS), SEEDS, candidates, negative, mask, prompts, ends)


def weakest(name):
    """The first strength of a sweep that acts on the tiny model, whose magnitudes are far below Stable Diffusion's."""
    method = MITIGATIONS[name]
    return WEAKEST.get(name, 0.05 if method.stronger == "less" else method.sweep[0])


@pytest.mark.parametrize("name", MITIGATIONS)
def test_strength_0_is_plain_and_the_weakest_of_its_sweep_changes_every_image(pipe, name):
    options, batch = options_of(pipe, name), make_batch(pipe, name, 0)
    plain, steps = plain_generation(pipe, options, batch), options.num_inference_steps
    embeds = (batch.negatives(), batch.embeds())
    assert torch.equal(plain.latents, pipe.generate(batch.latents, embeds, num_inference_steps=steps))
    assert torch.equal(run_mitigation(pipe, options, batch, name, 0).latents, plain.latents)
    assert not any(plain.triggered) and plain.unet_evals == [2 * steps] * 3

    strength, processors, before = weakest(name), pipe.unet.attn_processors, pipe.num_unet_evals
    batch = make_batch(pipe, name, strength)
    changed = run_mitigation(pipe, options, batch, name, strength)
    assert (changed.latents - plain.latents).abs().amax((1, 2, 3)).min() > 1e-5
    assert all(processors[n] is p for n, p in pipe.unet.attn_processors.items())
    assert sum(changed.unet_evals) == pipe.num_unet_evals - before

    alone = run_mitigation(pipe, options, batch.part(slice(1, 2)), name, strength)
    torch.testing.assert_close(changed.latents[1:2], alone.latents, rtol=1e-2, atol=5e-3)
    assert changed.triggered[1] == alone.triggered[0] and changed.unet_evals[1] == alone.unet_evals[0]


@pytest.mark.parametrize("name", MITIGATIONS)
def test_its_cost_is_that_of_its_record(pipe, name):
    """At most, and for a prompt without alternatives where paraphrases are searched."""
    strength, options, method = weakest(name), options_of(pipe, name), MITIGATIONS[name]
    batch = make_batch(pipe, name, strength)
    batch = replace(batch, candidates=[c[:1] for c in batch.candidates])
    found, steps = run_mitigation(pipe, options, batch, name, strength), options.num_inference_steps
    extra = [e - 2 * steps for e in found.unet_evals]
    assert max(extra) <= method.cost(strength, steps)
    if not method.flags and name not in AT_MOST:
        assert extra == [method.cost(strength, steps)] * 3


@pytest.mark.parametrize("name", [name for name, m in MITIGATIONS.items() if m.variants])
def test_its_variants_with_the_mask_change_what_it_does(pipe, name):
    options = options_of(pipe, name)
    batch, flags = make_batch(pipe, name, 0.05), {"be": "use_mask", "prmask": "pr_mask"}
    usual = run_mitigation(pipe, options, batch, name, 0.05)
    for variant in MITIGATIONS[name].variants:
        masked = run_mitigation(pipe, replace(options, **{flags[variant]: True}), batch, name, 0.05)
        moved = masked.magnitude_before != usual.magnitude_before or not torch.equal(masked.latents, usual.latents)
        assert moved, variant


@pytest.mark.parametrize("name", [name for name, m in MITIGATIONS.items() if m.stops])
def test_an_image_stops_at_its_target_and_is_then_plain(pipe, name):
    options, batch = options_of(pipe, name), make_batch(pipe, name, 1)
    stopped = run_mitigation(pipe, replace(options, optim_target_loss=1e9), batch, name, 3)
    assert stopped.iterations == [1] * 3 and torch.equal(
        stopped.latents, plain_generation(pipe, options, batch).latents
    )


@pytest.mark.parametrize("name", MITIGATIONS)
def test_its_record_says_what_tables_need(name):
    method = MITIGATIONS[name]
    assert method.what and "|" not in method.what + method.knob and method.source
    assert len(method.sweep) == (1 if method.largest == 1 and method.whole else 5)  # some have no knob
    assert method.stronger in ("more", "less")
    for sweep in filter(None, (method.sweep, method.bundled_sweep)):
        assert list(sweep) == sorted(sweep, reverse=method.stronger == "less")
        assert method.largest is None or max(sweep) <= method.largest
