"""Other pipelines of diffusers observed: D is that of two guidances, and looking changes no image."""

import numpy as np
import pytest
import torch

import memorization
from helpers import other_pipelines
from memorization import InputError
from memorization.models.observed import observe_pipeline

PROMPT, SEEDS, SIZE = "the wild owl poster", [3, 4], {"height": 8, "width": 8}
MAKERS = {
    "pixart_sigma": other_pipelines.make_pixart,
    "aura_flow": other_pipelines.make_aura_flow,
    "chroma": other_pipelines.make_chroma,  # two calls a step, the others one of two halves
    "sdxl": other_pipelines.make_sdxl,
    "sd3": other_pipelines.make_sd3,
}


@pytest.fixture(scope="module", params=MAKERS)
def pipe(request):
    made = MAKERS[request.param]()
    made.set_progress_bar_config(disable=True)
    return made


def size_of(pipe):
    """Arguments for a tiny picture, which PixArt would round to one of its own sizes."""
    return SIZE | ({"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {})


def guided_outputs(pipe, guidance_scale):
    """What the scheduler is given at the first step under a guidance."""
    kept, step = [], pipe.scheduler.step

    def keeping(output, *args, **kwargs):
        kept.append(output.detach().clone())
        return step(output, *args, **kwargs)

    pipe.scheduler.step = keeping
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    made = pipe(
        [PROMPT] * 2,
        generator=generators,
        num_inference_steps=2,
        guidance_scale=guidance_scale,
        output_type="np",
        **size_of(pipe),
    ).images
    del pipe.scheduler.step
    return kept[0].float(), (np.asarray(made) * 255).round().astype(np.uint8)


def test_d_is_the_slope_of_the_guided_prediction_and_no_image_changes(pipe):
    """u + g (c - u) is linear in g, so that two guidances give c - u without any hook on the denoiser."""
    (low, _), (high, images) = (guided_outputs(pipe, g) for g in (2.0, 5.0))
    expected = ((high - low) / 3).flatten(1).norm(dim=1)
    found = observe_pipeline(pipe, PROMPT, SEEDS, num_inference_steps=2, guidance_scale=5.0, **size_of(pipe))
    assert found.norms.shape == (2, 2) and found.num_evals == 2 * 2 * 2 and (found.norms > 0).all()
    torch.testing.assert_close(found.norms[:, 0], expected, rtol=1e-3, atol=1e-5)
    assert np.array_equal(found.images, images)


def test_an_early_exit_has_the_same_first_step_and_an_image_its_own_seed(pipe):
    whole = observe_pipeline(pipe, PROMPT, SEEDS, num_inference_steps=3, **size_of(pipe))
    early = observe_pipeline(pipe, PROMPT, SEEDS, num_inference_steps=3, stop_after=1, **size_of(pipe))
    assert early.images is None and early.num_evals == 4
    assert torch.equal(early.norms[:, 0], whole.norms[:, 0])
    alone = observe_pipeline(pipe, PROMPT, SEEDS[1:], num_inference_steps=3, stop_after=1, **size_of(pipe))
    torch.testing.assert_close(alone.norms, early.norms[1:], rtol=1e-3, atol=1e-5)
    assert "step" not in vars(pipe.scheduler) and not pipe.components[denoiser_name(pipe)]._forward_hooks


def test_the_library_call_gives_scores_and_images_and_refuses_the_rest():
    sdxl, how = other_pipelines.make_sdxl(), {"num_images_per_prompt": 2, "num_inference_steps": 2}
    (early,) = memorization.detect(sdxl, PROMPT, early_exit=1, guidance_scale=4.0, **how)
    (whole,) = memorization.detect(sdxl, PROMPT, guidance_scale=4.0, **how)
    assert early.images is None and early.mask is None and len(early.seeds) == len(whole.images) == 2
    assert early.score() == whole.score() > 0
    with pytest.raises(InputError, match="is observed from outside: D alone"):
        memorization.detect(sdxl, PROMPT, scores="sharpness", **how)


def denoiser_name(pipe):
    return "transformer" if "transformer" in pipe.components else "unet"


def test_without_guidance_it_is_refused_in_one_line(pipe):
    with pytest.raises(InputError, match="makes 1 predictions for an image at a step") as refused:
        observe_pipeline(pipe, PROMPT, SEEDS, num_inference_steps=2, guidance_scale=1.0, **size_of(pipe))
    assert "\n" not in str(refused.value) and "step" not in vars(pipe.scheduler)
