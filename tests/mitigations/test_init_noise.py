"""Han et al.'s two methods against the released rules, written out by hand."""

import pytest
import torch

from helpers.pipelines import make_pipeline
from local_sd_pipeline import NoisePrediction
from memorization.mitigations import init_noise, init_noise_adam
from memorization.mitigations.batch import DelayedGuidance, ImageBatch, MitigationOptions
from optim_utils import first_timestep

PROMPTS, SEEDS = ["the golden owl mug", "a large red heart on the left"], [1, 2]


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def pipe(request):
    return make_pipeline(request.param, latent=8)


@pytest.fixture
def images(pipe):
    text, negative = pipe.encode(PROMPTS)
    return ImageBatch(pipe.initial_latents(SEEDS), SEEDS, list(text.split(1)), negative[:1], None, PROMPTS, [4, 8])


def text_part(pipe, x, t, image):
    """The UNet's output with the prompt less that without, of one image."""
    embeds = torch.cat([image.negative, image.embeds()])
    uncond, text = pipe.unet(torch.cat([x, x]), torch.tensor(t), encoder_hidden_states=embeds)[0].chunk(2)
    return text - uncond


@pytest.mark.parametrize(("family", "lr"), [("SD 1", 0.01), ("SD 2", 0.1)])
def test_per_sample_is_adamw_until_the_target(pipe, images, family, lr, monkeypatch):
    """The rate by family; tested before each update and not after the last; the second time it stops on the way."""
    monkeypatch.setattr(init_noise_adam, "released_for", lambda released, embeds: released[family])
    image, t, target = images.part(slice(0, 1)), first_timestep(pipe, 50), 1e-9
    for count in (6, 4):
        x, losses = image.latents.clone().requires_grad_(), []
        optimizer = torch.optim.AdamW([x], lr=lr)
        for _ in range(6):
            loss = torch.norm(text_part(pipe, x, t, image))
            losses.append(loss.item())
            if loss.item() <= target:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        embeds = (image.negatives(), image.embeds())
        found, iterations = init_noise_adam.lower_magnitude(pipe, image.latents, t, embeds, 6, target)
        torch.testing.assert_close(found, x.detach(), rtol=0, atol=1e-5)
        assert iterations == [len(losses)] == [count]
        target = losses[3]


def test_the_target_is_the_released_one_unless_it_is_given(pipe, images):
    t, embeds = first_timestep(pipe, 50), (images.negatives(), images.embeds())
    assert init_noise_adam.lower_magnitude(pipe, images.latents, t, embeds, 3)[1] == [1, 1]  # a random model: D < 0.9
    assert init_noise_adam.lower_magnitude(pipe, images.latents, t, embeds, 3, 1e-9)[1] == [3, 3]


def test_the_norm_of_the_noise_is_reported(pipe, images):
    options = MitigationOptions(num_inference_steps=2, optim_target_loss=1e-9)
    found = init_noise_adam.lower_magnitude_generation(pipe, options, images, 3)
    t, embeds = first_timestep(pipe, 2), (images.negatives(), images.embeds())
    x = init_noise_adam.lower_magnitude(pipe, images.latents, t, embeds, 3, 1e-9)[0]
    assert found.latent_norms == pytest.approx([v.norm().item() for v in x], rel=1e-5)


@torch.no_grad()
def test_batch_wise_by_hand(pipe, images):
    """rho 50 was chosen for 4 x 64 x 64 numbers, and there are 4 x 8 x 8."""
    t = first_timestep(pipe, 50)
    found = init_noise.leave_basin(pipe, images.latents, t, (images.negatives(), images.embeds()), 2)
    for k in range(2):
        image = images.part(slice(k, k + 1))
        x = image.latents
        for _ in range(2):
            d = text_part(pipe, x, t, image)
            x = x - 0.7 * (text_part(pipe, x + 50 / 8 * d / d.norm(), t, image) - d)
        torch.testing.assert_close(found[k : k + 1], x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_steps", [7, 20])
def test_five_steps_are_without_guidance_however_many_there_are(num_steps):
    uncond, text = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    guidance = DelayedGuidance(7.0, 5)
    prediction = NoisePrediction((uncond, text), uncond, torch.tensor(1.0), torch.tensor(0.0))
    assert [guidance(prediction).mean().item() for _ in range(num_steps)] == [0.0] * 5 + [7.0] * (num_steps - 5)


def test_released_values():
    assert init_noise.RELEASED["SD 1"] == {"strength": 2, "gamma": 0.7, "rho": 50, "unguided steps": 5, "guidance": 7}
    assert init_noise.RELEASED["SD 2"] == {"strength": 4, "gamma": 0.7, "rho": 30, "unguided steps": 5, "guidance": 7}
    assert init_noise_adam.RELEASED["SD 1"] == {"strength": 1000, "lr": 0.01, "target": 0.9, "guidance": 7}
