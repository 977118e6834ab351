"""SAIL against the released search, written out as a plain loop over a denoiser made of one matrix a branch."""

from types import SimpleNamespace

import pytest
import torch

from local_sd_pipeline import LocalStableDiffusionPipeline, NoisePrediction
from memorization import InputError
from memorization.mitigations import sail
from memorization.mitigations.batch import ImageBatch

SHAPE, T = (4, 4, 4), 7


class ToyDenoiser:
    """Outputs tanh(x W), with a W for each branch; it counts what it is asked for."""

    def __init__(self, prediction_type="epsilon"):
        generator = torch.Generator().manual_seed(3)
        self.weights = [0.3 * torch.randn(64, 64, generator=generator) for _ in range(2)]
        self.scheduler = SimpleNamespace(
            config=SimpleNamespace(prediction_type=prediction_type), alphas_cumprod=torch.full((8,), 0.36)
        )
        self.num_unet_evals = self.num_unet_gradients = 0
        self.grad_batch_size = 8
        self.noise_scales = lambda t: LocalStableDiffusionPipeline.noise_scales(self, t)

    def branch(self, x, k):
        return torch.tanh(x.flatten(1) @ self.weights[k]).view_as(x)

    def predict_noise(self, latents, t, embeds):
        """Embeddings say by their first number which branch a sample is of."""
        self.num_unet_evals += len(latents)
        rows = [self.branch(x[None], int(e.flatten()[0])) for x, e in zip(latents, embeds[0], strict=True)]
        return NoisePrediction((torch.cat(rows),), latents, *self.noise_scales(t))


EMBEDS = (torch.zeros(1, 1, 16), torch.ones(1, 1, 16))


def released_search(toy, seed, threshold, max_steps, weight, as_picture=False):
    """The released loop for one image: every attempt, its repetitions and its stale directions."""
    beta, beta_prod = toy.scheduler.alphas_cumprod[T].sqrt(), (1 - toy.scheduler.alphas_cumprod[T]).sqrt()

    def part(x):
        outputs = [toy.branch(x, k) for k in range(2)]
        uncond, text = [-(beta * o - x) / beta_prod for o in outputs] if as_picture else outputs
        return text - uncond

    failures = losses_computed = 0
    while True:
        torch.manual_seed(seed)
        x = torch.randn((8, *SHAPE), requires_grad=True)
        stale, optimizer = x.detach().clone(), torch.optim.Adam([x], lr=0.05)
        for _ in range(max_steps):
            origin = stale + (x - x.detach())
            d = part(origin)
            d = d / d.view(8, -1).norm(dim=1)[:, None, None, None]
            loss = part(x + d).view(8, -1).norm(dim=1) + weight * x.view(8, -1).norm(dim=1)
            losses_computed += failures % 3 == 0  # repetitions are the same again
            taken = torch.where(loss <= threshold)[0]
            if len(taken):
                return x[taken[0]].detach(), threshold, losses_computed
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
        failures += 1
        if failures % 3 == 0:
            threshold += 0.1
            seed = torch.randint(0, 50000, (1,)).item()


@pytest.mark.parametrize(
    ("seed", "start", "max_steps", "tried"),
    [(1, "above all", 10, "one"), (2, "below all", 10, "steps"), (3, "far", 3, "seeds"), (4, "far", 1, "seeds")],
)
def test_the_candidate_is_that_of_the_released_search(seed, start, max_steps, tried):
    toy = ToyDenoiser()
    _, first, _ = sail.optimise_candidates(toy, candidates(seed), T, EMBEDS, -1, 1)
    threshold = {"above all": 100.0, "below all": first - 0.1, "far": first - 1}[start]
    expected, reached, count = released_search(toy, seed, threshold, max_steps, 0.05)
    before = toy.num_unet_evals
    found = sail.search_noise(toy, torch.zeros(1, *SHAPE), T, EMBEDS, seed, threshold, max_steps)
    torch.testing.assert_close(found.latents[0], expected, rtol=0, atol=1e-5)
    assert (found.target, found.iterations) == (reached, count)
    assert toy.num_unet_evals - before == sail.EVALS * sail.CANDIDATES * count
    assert {"one": count == 1, "steps": reached == threshold and count > 1, "seeds": reached > threshold}[tried]


def candidates(seed):
    return torch.randn((8, *SHAPE), generator=torch.Generator().manual_seed(seed))


def test_for_v_prediction_the_output_is_taken_for_the_picture():
    toy = ToyDenoiser("v_prediction")
    _, first, _ = sail.optimise_candidates(toy, candidates(5), T, EMBEDS, -1, 1)
    expected, reached, _ = released_search(toy, 5, first - 0.1, 10, 0.05, as_picture=True)
    found = sail.search_noise(toy, torch.zeros(1, *SHAPE), T, EMBEDS, 5, first - 0.1, 10)
    torch.testing.assert_close(found.latents[0], expected, rtol=0, atol=1e-5)
    assert found.target == reached


def test_the_weight_is_that_of_the_family():
    """Wider text features are those of Stable Diffusion 2: 0.01 instead of 0.05 of a norm of 8."""
    toy, wide = ToyDenoiser(), (torch.zeros(1, 1, 1024), torch.ones(1, 1, 1024))
    one, two = (sail.losses_and_gradients(toy, candidates(1), candidates(1), T, EMBEDS, w, False) for w in (0.05, 0.01))
    assert (one - two).tolist() == pytest.approx([0.04 * x.norm().item() for x in candidates(1)], rel=1e-4)
    assert sail.optimise_candidates(toy, candidates(1), T, wide, -1, 1)[1] == pytest.approx(two.min().item())


def test_a_search_that_finds_nothing_ends_with_the_lowest_loss():
    toy = ToyDenoiser()
    found = sail.search_noise(toy, torch.zeros(1, *SHAPE), T, EMBEDS, 1, -5.0, 2)
    assert found.target == pytest.approx(-5 + 0.9) and found.iterations == 20 and found.loss > found.target
    assert toy.num_unet_evals == sail.EVALS * sail.CANDIDATES * 20
    lowest, seed = float("inf"), 1
    for _ in range(10):
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn((8, *SHAPE), generator=generator)
        lowest = min(lowest, sail.optimise_candidates(toy, start, T, EMBEDS, -9, 2)[1])
        seed = int(torch.randint(0, 50000, (1,), generator=generator))
    assert found.loss == pytest.approx(lowest)


def batch(numel_side, width):
    shape = (1, 4, numel_side, numel_side)
    return ImageBatch(torch.zeros(shape), [0], [torch.zeros(1, 1, width)], torch.zeros(1, 1, width))


def test_the_default_threshold_is_a_length():
    assert sail.default_target(batch(64, 768)) == 8.2 and sail.default_target(batch(96, 1024)) == 5
    assert sail.default_target(batch(16, 768)) == pytest.approx(2.05)


@pytest.mark.parametrize(("side", "width", "target"), [(64, 768, 5.4), (96, 768, 6), (96, 1024, 1), (16, 16, 0.6)])
def test_a_threshold_below_the_noise_is_refused(side, width, target):
    """On Stable Diffusion 1 at 768 pixels 0.05 times a norm of 192 is 9.6 alone."""
    with pytest.raises(InputError, match="sail cannot end at"):
        sail.refuse_unreachable(batch(side, width), target)


@pytest.mark.parametrize(("side", "width", "target"), [(64, 768, 7.6), (96, 1024, 4), (16, 16, 2.05)])
def test_published_thresholds_are_not(side, width, target):
    sail.refuse_unreachable(batch(side, width), target)
