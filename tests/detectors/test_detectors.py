"""Each published detector against an independent slow computation, in float64 on a tiny model."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from attn_utils import TokenShares
from helpers.pipelines import make_pipeline
from local_sd_pipeline import DenoiseStep, NoisePrediction
from memorization.detectors.anisotropy import anisotropy
from memorization.detectors.attention import (
    attention_concentration,
    attention_entropy,
    attention_entropy_layer,
    attention_entropy_padding,
)
from memorization.detectors.curvature_diff import curvature_diff, curvature_gradient
from memorization.detectors.hessian_map import hessian_map
from memorization.detectors.images import tiled_distance
from memorization.detectors.motion import motion_norms, motion_zscores
from memorization.detectors.noise_difference import early_masked_norm
from memorization.detectors.sharpness import sharpness
from memorization.detectors.tokens import token_gradients, token_significance
from memorization.trace import Calibration, Trace

PROMPT, SEEDS, STEPS = "the golden owl mug", [3, 4], 6


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def trace(request):
    pipe = make_pipeline(request.param, latent=8)
    pipe.unet.double()
    text, negative = (e.double() for e in pipe.encode([PROMPT] * 2))
    trace = Trace(pipe, (negative, text), torch.tensor([pipe.end_token(PROMPT)] * 2), SEEDS, STEPS)
    for step in pipe.denoise(pipe.initial_latents(SEEDS), trace.embeds, STEPS):
        trace.watch(step)
    assert sorted(trace.steps) == [0, 1, 2, STEPS - 1] and len(trace.diff_maps) == STEPS
    return trace


def score(trace, latents, t, branch):
    """The score of one branch at any latents, from DDIM's own noise: no code of the detectors."""
    pipe = trace.pipe
    a = pipe.scheduler.alphas_cumprod[t].double()
    with torch.no_grad():
        out = pipe.unet(latents, torch.tensor(t), encoder_hidden_states=trace.embeds[branch], return_dict=False)[0]
    eps = out if pipe.scheduler.config.prediction_type == "epsilon" else a.sqrt() * out + (1 - a).sqrt() * latents
    return -eps / (1 - a).sqrt(), eps


def test_sharpness_equals_finite_differences(trace):
    step, h = trace.steps[0], 1e-5
    x, t = step.latents, step.timestep

    def diff(latents):
        return score(trace, latents, t, 1)[0] - score(trace, latents, t, 0)[0]

    direction = diff(x)
    expected = ((diff(x + h * direction) - diff(x - h * direction)) / (2 * h)).flatten(1).norm(dim=1)
    before = trace.pipe.num_unet_evals
    found = sharpness(trace)["sharpness"].double()
    assert trace.pipe.num_unet_evals - before == 4
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_curvature_gradient_equals_finite_differences_along_random_directions(trace):
    step, h = trace.steps[0], 1e-4
    x, t = step.latents, step.timestep
    gradient = curvature_gradient(trace)

    def energy(latents):
        return sum(s * score(trace, latents, t, b)[1].flatten(1).square().sum(1) / 2 for s, b in ((1, 1), (-1, 0)))

    for k in range(5):
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        expected = (energy(x + h * z) - energy(x - h * z)) / (2 * h)
        torch.testing.assert_close((gradient * z).flatten(1).sum(1), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(curvature_diff(trace)["curvature_diff"], gradient.float().flatten(1).norm(dim=1))


def test_hessian_map_equals_the_exact_diagonal_up_to_the_noise_of_its_probes(trace):
    step, size, probes = trace.last, 4 * 8 * 8, 100
    x, t, h = step.latents[:1], step.timestep, 1e-4
    one = Trace(trace.pipe, tuple(e[:1] for e in trace.embeds), trace.tokens[:1], SEEDS[:1], STEPS)
    one.steps = {STEPS - 1: replace(step, latents=x)}
    shifted = torch.eye(size, dtype=torch.float64).view(size, 4, 8, 8) * h
    whole = Trace(trace.pipe, tuple(e[:1].expand(size, -1, -1) for e in trace.embeds), None, None, STEPS)
    up, down = ((score(whole, x + s, t, 1)[0] - score(whole, x + s, t, 0)[0]) for s in (shifted, -shifted))
    jacobian = ((up - down) / (2 * h)).view(size, size)  # row k: change of all outputs with input k
    exact = -jacobian.diagonal().view(4, 8, 8).sum(0)
    noise = jacobian.square().sum(0).sub(jacobian.diagonal().square()).view(4, 8, 8).sum(0).div(probes).sqrt()
    found = hessian_map(one, num_probes=probes)[0].double()
    assert ((found - exact.relu()).abs() < 5 * noise + 1e-6).all()


def test_hessian_map_of_an_image_does_not_depend_on_its_neighbours(trace):
    alone = Trace(trace.pipe, tuple(e[1:] for e in trace.embeds), trace.tokens[1:], SEEDS[1:], STEPS)
    alone.steps = {STEPS - 1: replace(trace.last, latents=trace.last.latents[1:])}
    both = hessian_map(trace, 2)
    torch.testing.assert_close(both[1:], hessian_map(alone, 2), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("width", "size", "gamma"), [(768, 64, 2.0), (768, 16, 0.5), (1024, 96, 0.1), (1024, 48, 0.05)]
)
def test_gamma_of_anisotropy_is_the_released_one_at_its_own_size_and_follows_the_latent(width, size, gamma):
    """A model whose predictions are the text features' first number: D is known, and the cosine is 1."""
    latents, embeds = torch.zeros(1, 4, size, size), (torch.ones(1, 2, width), torch.full((1, 2, width), 3.0))
    outputs = tuple(e[:, :1, :1, None].expand_as(latents) for e in embeds)
    prediction = NoisePrediction(outputs, latents, torch.tensor(1.0), torch.tensor(0.0))
    scheduler = make_pipeline(latent=8).scheduler
    pipe = SimpleNamespace(scheduler=scheduler, predict_noise=lambda *args: prediction)
    step = DenoiseStep(0, 981, latents, prediction, latents, latents)
    found = anisotropy(Trace(pipe, embeds, None, [0], 50, {0: step}))
    assert found["anisotropy"].item() == pytest.approx(2 * (4 * size * size) ** 0.5 + gamma, abs=1e-4)


def test_token_gradients_equal_finite_differences(trace):
    """Along each token's own gradient, where D changes by the gradient's norm a unit."""
    first = Trace(trace.pipe, trace.embeds, trace.tokens, SEEDS, STEPS, {0: trace.steps[0]})
    norms, step, h = token_gradients(first), trace.steps[0], 1e-4
    assert norms.shape == (2, 77)

    def magnitude(text):
        moved = Trace(trace.pipe, (trace.embeds[0], text), trace.tokens, SEEDS, STEPS)
        u, c = (score(moved, step.latents, step.timestep, b)[1] for b in (0, 1))
        return (c - u).flatten(1).norm(dim=1)

    for token in (0, 3, 5, 40):
        squares = 0
        for k in range(trace.embeds[1].shape[2]):
            z = torch.zeros_like(trace.embeds[1])
            z[:, token, k] = h
            squares = squares + ((magnitude(trace.embeds[1] + z) - magnitude(trace.embeds[1] - z)) / (2 * h)) ** 2
        torch.testing.assert_close(norms[:, token].double(), squares.sqrt(), rtol=1e-3, atol=1e-7)
    groups = token_significance(first)
    torch.testing.assert_close(sum(groups.values()), norms.sum(1))
    torch.testing.assert_close(groups["token_significance_words"], norms[:, 1:5].sum(1))


def test_motion_norms_use_ddims_own_x0(trace):
    step = trace.steps[1]
    found = motion_norms(trace.pipe, step)
    x0 = trace.pipe.scheduler.step(step.noise_pred, step.timestep, step.latents).pred_original_sample
    torch.testing.assert_close(found["x0_norm"].double(), x0.flatten(1).norm(dim=1), rtol=1e-5, atol=0)
    moved = step.next_latents - step.latents
    torch.testing.assert_close(found["update_norm"].double(), moved.flatten(1).norm(dim=1), rtol=1e-5, atol=0)


def shares(maps):
    store = TokenShares(maps)
    store.maps = maps
    return store


def test_attention_entropy_by_hand():
    """Two layers, four tokens, the end token at 2; steps 0 and 4 of 5, the last fifth being step 4.

    The padding's entropy falls by 0.2: the released rule takes that off, the paper's adds it.
    """
    layers = {"a": torch.tensor([[0.25, 0.25, 0.25, 0.25]]), "b": torch.tensor([[0.25, 0.25, 0.25, 0.25]])}
    late = {"a": torch.tensor([[0.7, 0.1, 0.1, 0.1]]), "b": torch.tensor([[0.5, 0.1, 0.2, 0.2]])}
    trace = Trace(None, None, torch.tensor([2]), [0], 5, token_shares={0: shares(layers), 4: shares(late)})
    found = {k: v.item() for k, v in (attention_entropy(trace) | attention_entropy_padding(trace)).items()}

    def e(*shares):
        return -sum(a * math.log(a) for a in shares)

    grown = e(0.15, 0.15) - e(0.25, 0.25)
    assert grown < -0.1
    assert found["attention_entropy"] == pytest.approx(e(0.6, 0.1, 0.15, 0.15) + grown)
    assert found["attention_entropy_absolute"] == pytest.approx(e(0.6, 0.1, 0.15, 0.15) - grown)
    assert found["attention_entropy_padding"] == pytest.approx(e(0.15, 0.15) - e(0.6, 0.1))


def test_attention_entropy_of_a_layer_is_the_fourth_s_and_high_where_attention_is_even():
    even, sharp = torch.full((1, 4), 0.25), torch.tensor([[0.97, 0.01, 0.01, 0.01]])
    layers = {name: even if name == "fourth" else sharp for name in ("first", "second", "third", "fourth", "fifth")}
    trace = Trace(None, None, torch.tensor([2]), [0], 5, token_shares={0: shares(layers)})
    assert attention_entropy_layer(trace)["attention_entropy_layer"].item() == pytest.approx(math.log(4))
    assert attention_concentration(trace)["attention_concentration"].item() == pytest.approx(-math.log(4))


def test_early_masked_norm_weighs_the_first_step_with_its_own_map():
    maps = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = early_masked_norm(Trace(None, None, None, None, 1, diff_maps=[maps[0]]))
    expected = (maps[0] ** 3).sum((1, 2)).sqrt() / maps[0].mean((1, 2))
    torch.testing.assert_close(found["text_noise_norm_early_masked"], expected)


def test_tiled_distance_by_hand():
    """Two equal images and one that differs in a single tile: the tile decides, not the mean."""
    images = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)
    images[2, :4, :4] = 255
    assert tiled_distance(images).tolist() == [0, 0, -1]


def test_motion_zscores_need_both_at_the_same_step():
    names = ("update_norm", "x0_norm")
    calibration = Calibration(dict.fromkeys(names, torch.zeros(3)), dict.fromkeys(names, torch.ones(3)))
    norms = {"update_norm": torch.tensor([[5.0, 1, 4]]), "x0_norm": torch.tensor([[0.0, 9, 3]])}
    assert motion_zscores(norms, calibration).tolist() == [3]
    below = {name: -values for name, values in norms.items()}
    assert motion_zscores(below, calibration).tolist() == [-4]
    assert motion_zscores(below, calibration, absolute=True).tolist() == [3]
