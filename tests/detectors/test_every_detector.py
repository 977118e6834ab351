"""What every detector keeps, whoever wrote it: keys, one number per image, cost, independence of its neighbours."""

import pytest
import torch

from attn_utils import cross_attention_layers, down_cross_layers
from helpers.pipelines import make_pipeline
from memorization.detectors.base import DETECTORS
from memorization.observation import Observation, Recorded, make_inputs, observe_batches
from memorization.scores import horizon_text, is_chosen, label, score_cost

PROMPTS, SEEDS, STEPS = ["the golden owl mug", "a large red heart"], [[1, 2], [3, 4]], 5
OF_GENERATIONS = [name for name, d in DETECTORS.items() if not d.of_images]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def pipe(request):
    made = make_pipeline(request.param, latent=8)
    made.base = make_pipeline(request.param, latent=8)
    return made


def measure(pipe, name, prompts=PROMPTS, seeds=SEEDS, batch_size=4) -> Observation:
    recorded = Recorded(down_cross_layers(pipe.unet), cross_attention_layers(pipe.unet))
    inputs = make_inputs(pipe, prompts, seeds)
    return observe_batches(
        pipe, inputs, batch_size, recorded, detectors=[DETECTORS[name]] if name else [], num_inference_steps=STEPS
    )


@pytest.mark.parametrize("name", OF_GENERATIONS)
def test_its_keys_are_those_declared_finite_and_one_number_per_image(pipe, name):
    detector, found = DETECTORS[name], measure(pipe, name).scores
    # Without a calibration a detector that compares with ordinary images leaves its norms alone.
    expected = set(detector.kept) or set(detector.keys)
    assert set(found) == expected
    for key, values in found.items():
        assert values.dtype == torch.float32 and values.isfinite().all()
        assert values.shape == ((4, STEPS) if detector.stepped or key in detector.kept else (4,))


@pytest.mark.parametrize("name", OF_GENERATIONS)
def test_it_changes_no_image_and_costs_what_both_counters_say(pipe, name):
    before = pipe.num_unet_evals, pipe.num_unet_gradients
    plain = measure(pipe, None)
    between = pipe.num_unet_evals, pipe.num_unet_gradients
    with_it = measure(pipe, name)
    after = pipe.num_unet_evals, pipe.num_unet_gradients
    assert torch.equal(plain.latents, with_it.latents)
    generation = [b - a for a, b in zip(before, between, strict=True)]
    extra = [(b - a - g) / 4 for a, b, g in zip(between, after, generation, strict=True)]
    assert tuple(extra) == DETECTORS[name].cost


@pytest.mark.parametrize("name", OF_GENERATIONS)
def test_an_image_does_not_depend_on_its_neighbours(pipe, name):
    together = measure(pipe, name).scores
    alone = measure(pipe, name, PROMPTS[1:], [[4]]).scores
    for key, values in alone.items():
        torch.testing.assert_close(together[key][3:], values, rtol=2e-3, atol=1e-5)


def test_images_of_a_prompt_are_compared_with_one_another():
    pictures = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for detector in (d for d in DETECTORS.values() if d.of_images):
        found = detector.function(pictures)
        assert set(found) == set(detector.keys) and all(v.shape == (3,) for v in found.values())


@pytest.mark.parametrize("name", DETECTORS)
def test_its_record_says_what_tables_need(name):
    detector = DETECTORS[name]
    assert detector.what and not detector.what.endswith(".") and "|" not in detector.what and detector.source
    for key in detector.keys:
        assert label(key) == detector.keys[key] and is_chosen(key) is not detector.always
        assert score_cost(key, 1, 50) <= score_cost(key, None, 50) and horizon_text(key, 1)


def test_costs_alone_are_those_published():
    """Evaluations per image with a gradient or tangent as two, of 50 steps: by hand."""
    costs = {
        ("text_noise_norm", 1): 2,
        ("text_noise_norm", 10): 20,
        ("text_noise_norm", None): 100,
        ("text_noise_norm_masked", 1): 100,
        ("text_noise_norm_early_masked", None): 2,
        ("anisotropy", None): 2 + 2,
        ("score_change_2", None): 6,
        ("score_gap_change_2", None): 6,
        ("score_diff", None): 100,
        ("condition_jacobian", None): 2 + 1 + 2,
        ("sharpness", None): 2 + 2 + 2 * 2,
        ("token_significance_end", None): 6 + 3 + 2 * 3,
        ("attention_entropy", None): 100,
        ("attention_entropy_layer", None): 2,
        ("attention_concentration", None): 2,
        ("broken_memories", None): 100,
        ("hessian_map", None): 100 + 2 + 2 * 32,
    }
    assert {place: score_cost(*place, 50) for place in costs} == costs
