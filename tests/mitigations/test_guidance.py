"""Late, opposite and dynamic guidance against the released rules (Jain et al., CVPR 2025), written out."""

import pytest
import torch
from diffusers import DDIMScheduler

from helpers.pipelines import make_pipeline
from helpers.released_loops import guided_loop, image_batch
from local_sd_pipeline import NoisePrediction
from memorization.mitigations.base import run_mitigation
from memorization.mitigations.batch import MitigationOptions
from memorization.mitigations.local_minimum import MinimumGuidance

STEPS, CLOSE = 20, {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=[0, 1], ids=["steps on the transition", "steps beside it"])
def world(request):
    """A pipeline whose steps are 950, 900, ... or one later, so that one is 500 and one 650, or none is."""
    pipe = make_pipeline(latent=8)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, steps_offset=request.param)
    return pipe, image_batch(pipe, ["the golden owl mug", "a large red heart"], [1, 2])


def mitigated(world, name, strength):
    pipe, images = world
    return run_mitigation(pipe, MitigationOptions(num_inference_steps=STEPS), images, name, strength).latents


@pytest.mark.parametrize(
    ("name", "strength", "timestep", "scale"),
    [
        ("cfg_delay", 0.5, 500, 0.0),
        ("cfg_delay", 0.3, 700, 0.0),
        ("cfg_delay", 0.9, 100, 0.0),
        ("cfg_opposite", 2, 650, -2.0),
    ],
)
def test_a_fixed_transition_as_released(world, name, strength, timestep, scale):
    """The released comparison is t > timestep: the step that is exactly there is guided."""

    def guide(index, t, uncond, text, state):
        return uncond + (scale if t > timestep else 7.5) * (text - uncond)

    torch.testing.assert_close(mitigated(world, name, strength), guided_loop(*world, STEPS, guide), **CLOSE)


def released_dynamic(index, t, uncond, text, state):
    """The released loop's bookkeeping: -1 stands for what there is not yet."""
    before, earlier = state.get("before", -1.0), state.get("earlier", -1.0)
    now = float((uncond - text).norm())
    if state.get("transition") is None and now > before and earlier > before:
        state["transition"] = index
    state.update(before=now, earlier=before)
    return uncond + (1.0 if state.get("transition") is None else 7.5) * (text - uncond)


def test_the_dynamic_transition_as_released(world):
    found = mitigated(world, "cfg_delay_dynamic", 1)
    torch.testing.assert_close(found, guided_loop(*world, STEPS, released_dynamic), **CLOSE)


def scales_of(magnitudes, guidance):
    """The scale that each of two images is guided with at every step, where D has these values."""
    direction, found = torch.ones(2, 1, 2, 2) / 2, []
    for pair in magnitudes:
        difference = torch.tensor(pair).view(2, 1, 1, 1) * direction
        prediction = NoisePrediction((0 * difference, difference), difference, torch.tensor(1.0), torch.tensor(0.0))
        found.append((guidance(prediction) / difference).flatten(1).mean(1).tolist())
    return torch.tensor(found).T


def test_a_minimum_is_strict_and_inside_and_latched_for_each_image_alone():
    first = [3.0, 4.0, 2.0, 2.0, 5.0, 1.0, 3.0, 2.0]  # rises at once; level at the bottom; a minimum at 5
    second = [5.0, 3.0, 4.0, 2.0, 1.0, 0.5, 0.4, 0.3]  # a minimum at 1, and never again
    found = scales_of(zip(first, second, strict=True), MinimumGuidance(7.5, 1.0))
    expected = torch.tensor([[1.0] * 6 + [7.5] * 2, [1.0] * 2 + [7.5] * 6])
    torch.testing.assert_close(found, expected)


def test_without_a_minimum_an_image_is_never_guided_unless_there_is_a_cap():
    falling = [(5.0, 5.0), (4.0, 4.0), (3.0, 3.0), (2.0, 2.0)]
    assert scales_of(falling, MinimumGuidance(7.5, 1.0)).eq(1.0).all()
    capped = scales_of(falling, MinimumGuidance(7.5, 0.0, longest=3))
    torch.testing.assert_close(capped, torch.tensor([[0.0, 0.0, 0.0, 7.5]] * 2))
