"""Mitigations decide per image, cost what they should, and follow the published formulas."""

import pytest
import torch

from local_sd_pipeline import NoisePrediction
from memorization.mitigations.batch import ImageBatch, MitigationOptions
from memorization.mitigations.prompt_search import search_prompt
from optim_utils import (
    PromptReanchoring,
    choose_candidate,
    first_timestep,
    optimize_prompt_embeds,
    predict_uncond,
    semantic_search,
)

SEEDS = [1, 2, 3]
PROMPTS = ["the golden owl mug", "a mug of the golden owl", "one cup showing the golden owl", "cup with a golden owl"]


@pytest.fixture(scope="module")
def setting(pipe):
    candidates, negative = pipe.encode(PROMPTS)
    latents = pipe.initial_latents(SEEDS)
    t = first_timestep(pipe, 5)
    uncond = predict_uncond(pipe, latents, t, negative[:3])
    mask = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return dict(latents=latents, t=t, candidates=candidates, negative=negative[:1], uncond=uncond, mask=mask)


def optimise(pipe, setting, rows, mask=True, **kwargs):
    embeds = setting["candidates"][:1].expand(len(SEEDS), -1, -1)[rows]
    some_mask = setting["mask"][rows] if mask else None
    return optimize_prompt_embeds(
        pipe, setting["latents"][rows], setting["t"], embeds, setting["uncond"][rows], some_mask, **kwargs
    )


def search(pipe, setting, rows, target):
    return semantic_search(
        pipe, setting["latents"][rows], setting["t"], [setting["candidates"]] * len(SEEDS[rows]),
        setting["uncond"][rows], target, setting["mask"][rows],
    )  # fmt: skip


def evals(pipe, work):
    before = pipe.num_unet_evals
    work()
    return pipe.num_unet_evals - before


def test_pe_loss_falls_and_bos_moves_by_weight_decay_alone(pipe, setting):
    result = optimise(pipe, setting, slice(None))
    assert all(losses[-1] < losses[0] for losses in result.losses)
    start = setting["candidates"][:1]
    torch.testing.assert_close(result.prompt_embeds[:, 0], start[:, 0].expand(3, -1) * (1 - 0.05 * 0.01) ** 10)
    assert (result.prompt_embeds[:, 1:] - start[:, 1:]).abs().amax((1, 2)).min() > 0.1


@pytest.mark.parametrize("mask", [False, True])
def test_pe_of_an_image_does_not_depend_on_its_neighbours(pipe, setting, mask):
    together = optimise(pipe, setting, slice(None), mask)
    alone = optimise(pipe, setting, slice(1, 2), mask)
    torch.testing.assert_close(together.prompt_embeds[1:2], alone.prompt_embeds, rtol=1e-3, atol=1e-3)


def test_pe_stops_per_image_and_costs_one_evaluation_an_iteration(pipe, setting):
    full = optimise(pipe, setting, slice(None))
    target = sorted(min(losses) for losses in full.losses)[1]  # one image never gets there
    results = []
    cost = evals(pipe, lambda: results.append(optimise(pipe, setting, slice(None), target_loss=target)))
    losses = results[0].losses
    assert cost == sum(len(x) for x in losses) and len({len(x) for x in losses}) > 1
    for k, seen in enumerate(losses):
        stopped = seen[-1] <= target
        assert stopped == (min(full.losses[k]) <= target) and all(x > target for x in seen[:-1])


@pytest.mark.parametrize(
    ("magnitudes", "choice"),
    [([1, 5, 5], 0), ([9, 4, 1], 1), ([9, 8, 3], 2), ([5.5, 9, 7], 2), ([6], 0)],
    ids=["original is fine", "first below wins", "only the last", "smallest alternative", "no alternatives"],
)
def test_ss_choice(magnitudes, choice):
    assert choose_candidate(magnitudes, 5) == choice


def test_ss_magnitudes_cost_and_independence(pipe, setting):
    everything = search(pipe, setting, slice(None), target=-1.0)
    assert all(everything.triggered) and [len(m) for m in everything.magnitudes] == [4] * 3
    assert evals(pipe, lambda: search(pipe, setting, slice(0, 1), -1.0)) == 4  # and one for uncond: 1 + c
    assert evals(pipe, lambda: search(pipe, setting, slice(0, 1), 1e9)) == 1
    alone = search(pipe, setting, slice(1, 2), target=-1.0)
    assert alone.magnitudes[0] == pytest.approx(everything.magnitudes[1], rel=1e-4)
    for c in range(4):
        embeds = setting["candidates"][c : c + 1].expand(3, -1, -1)
        first = optimize_prompt_embeds(
            pipe, setting["latents"], setting["t"], embeds, setting["uncond"], setting["mask"], num_iters=1
        )
        assert [m[c] for m in everything.magnitudes] == pytest.approx([x[0] for x in first.losses])


def test_ss_of_each_image_ends_at_its_own_first_candidate_below_the_target(pipe, setting):
    """Images of two prompts in one batch, one with three candidates and one with two."""
    candidates = [setting["candidates"], setting["candidates"][1:3], setting["candidates"]]
    everything = search(pipe, setting, slice(None), target=-1.0).magnitudes
    target = sorted(everything[0])[1]
    results = []
    inputs = setting["latents"], setting["t"], candidates, setting["uncond"], target, setting["mask"]
    cost = evals(pipe, lambda: results.append(semantic_search(pipe, *inputs)))
    found = results[0]
    assert cost == sum(len(m) for m in found.magnitudes) and len({len(m) for m in found.magnitudes}) > 1
    for k, offered in enumerate(candidates):
        seen = found.magnitudes[k]
        assert all(m > target for m in seen[:-1]) and (seen[-1] <= target or len(seen) == len(offered))
        assert seen[found.choice[k]] <= target or found.choice[k] > 0


def prediction(diff_norm, noise_scale=1.0):
    """Three branches of two images whose modified magnitude is `diff_norm` in the first image, tiny in the second."""
    g = torch.Generator().manual_seed(0)
    uncond, original, direction = (torch.randn(2, 4, 6, 6, generator=g) for _ in range(3))
    norms = torch.tensor([diff_norm, 0.01]).view(2, 1, 1, 1) / noise_scale
    modified = uncond + norms * direction / direction.flatten(1).norm(dim=1).view(2, 1, 1, 1)
    return NoisePrediction((uncond, original, modified), uncond, torch.tensor(noise_scale), torch.tensor(0.0))


def plain(p):
    return NoisePrediction((p.outputs[0], p.outputs[2]), *[None] * 3).guided(7.5)


@pytest.mark.parametrize("noise_scale", [1.0, 0.5])
def test_pr_formula_limits_and_continuity(noise_scale):
    guide = PromptReanchoring(7.5, 3, 5)
    below = prediction(2.9, noise_scale)
    assert torch.equal(guide(below), plain(below))
    for edge in (3.0, 5.0):
        a, b = (guide(prediction(edge + e, noise_scale)) for e in (-1e-4, 1e-4))
        torch.testing.assert_close(a, b, rtol=1e-2, atol=5e-3)
    middle = prediction(4.0, noise_scale)
    u, p, m = (o[0] for o in middle.outputs)
    torch.testing.assert_close(guide(middle)[0], p + 4.25 * (m - p) + (7.5 - 4.25) * (m - u))
    far = prediction(9.0, noise_scale)
    torch.testing.assert_close(guide(far)[0], 7.5 * far.outputs[2][0] - 6.5 * far.outputs[1][0])
    assert torch.equal(guide(far)[1], plain(far)[1])  # the second image decides for itself
    with pytest.raises(ValueError, match="must exceed"):
        PromptReanchoring(7.5, 3, 3)


def test_masked_pr_is_pr_where_bright_and_as_asked_where_dark():
    mask = torch.zeros(2, 1, 6, 6)
    mask[:, :, :3] = 0.002
    p = prediction(9.0)
    masked, full = PromptReanchoring(7.5, 3, 5, mask)(p), PromptReanchoring(7.5, 3, 5)(p)
    torch.testing.assert_close(masked[:, :, :3], full[:, :, :3])
    as_asked = p.guided(7.5)
    torch.testing.assert_close(masked[:, :, 3:], as_asked[:, :, 3:])


def mitigated(pipe, setting, rows=slice(None), **options):
    return search_prompt(pipe, MitigationOptions(num_inference_steps=5, **options), batch(setting).part(rows))


def batch(setting):
    """Images of three prompts: each row has the candidates in another order, the second fewer of them."""
    c = setting["candidates"]
    candidates = [c, c[[1, 0, 2]], c[[2, 3, 1, 0]]]
    return ImageBatch(setting["latents"], SEEDS, candidates, setting["negative"], setting["mask"])


def test_methods_that_do_not_fire_are_plain_generation(pipe, setting):
    embeds = (setting["negative"].expand(3, -1, -1), batch(setting).embeds())
    unmitigated = pipe.generate(setting["latents"], embeds, num_inference_steps=5)
    for options in ({}, {"l_target_ss": 1e9, "l_target_pr": 1, "mag_thres_pr": 2}, {"optim_target_loss": 1e9}):
        result = mitigated(pipe, setting, **options)
        assert torch.equal(result.latents, unmitigated) and not any(result.triggered)


METHODS = {
    "pe": dict(optim_target_loss=0.01),
    "prss": dict(l_target_ss=0.01, l_target_pr=0.01, mag_thres_pr=0.5),
    "pe+pr, masked": dict(optim_target_loss=0.01, l_target_pr=0.01, mag_thres_pr=0.5, use_mask=True, pr_mask=True),
    "ss+pe": dict(l_target_ss=0.01, optim_target_loss=0.01, use_mask=True),
}


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_an_image_of_a_mitigated_batch_equals_the_image_alone(pipe, setting, options):
    together, alone = mitigated(pipe, setting, **options), mitigated(pipe, setting, slice(1, 2), **options)
    torch.testing.assert_close(together.latents[1:2], alone.latents, rtol=1e-2, atol=5e-3)
    for key in ("triggered", "choice", "iterations", "unet_evals"):
        if getattr(alone, key) is not None:
            assert getattr(together, key)[1] == getattr(alone, key)[0]


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_the_evaluations_of_each_image_add_up_to_the_counter(pipe, setting, options):
    results = []
    cost = evals(pipe, lambda: results.append(mitigated(pipe, setting, **options)))
    assert sum(results[0].unet_evals) == cost


def test_pr_makes_three_branch_evaluations_a_step_and_plain_generation_two(pipe, setting):
    one = slice(0, 1)
    assert evals(pipe, lambda: mitigated(pipe, setting, one)) == 5 * 2
    assert evals(pipe, lambda: mitigated(pipe, setting, one, **METHODS["prss"])) == (1 + 4) + 5 * 3
    assert evals(pipe, lambda: mitigated(pipe, setting, one, **METHODS["pe"])) == (1 + 10) + 5 * 2
