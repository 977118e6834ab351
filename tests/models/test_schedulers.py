"""DDIM out of any scheduler: the table of what decides the numbers, and what is refused."""

import json

import diffusers
import pytest
import torch

import detect_mem
import memorization
from helpers.models import model_copy
from memorization.bundled import MODEL
from memorization.models.schedulers import ddim_of, deciding_values, first_timestep, is_blind_at_first
from memorization.models.stable_diffusion import load_pipeline

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BUNDLED = json.loads((MODEL / "scheduler" / "scheduler_config.json").read_text())
ZERO_SNR = BUNDLED | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def of_class(name, **config):
    return getattr(diffusers, name)(**BETAS | config)


@pytest.mark.parametrize(
    "name",
    ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
     "LMSDiscreteScheduler", "HeunDiscreteScheduler"],
)  # fmt: skip
@pytest.mark.parametrize("num_steps", [5, 20])
def test_every_sampler_of_stable_diffusion_becomes_its_ddim(name, num_steps):
    expected, found = diffusers.DDIMScheduler(**BUNDLED), ddim_of(of_class(name))
    assert deciding_values(found) == deciding_values(expected)
    for scheduler in (expected, found):
        scheduler.set_timesteps(num_steps)
    assert torch.equal(found.timesteps, expected.timesteps)
    assert torch.equal(found.alphas_cumprod, expected.alphas_cumprod)
    assert found.final_alpha_cumprod == expected.final_alpha_cumprod
    latents = torch.full((1, 4, 2, 2), 3.0)  # beyond what a scheduler for pixels would leave
    assert torch.equal(*(s.step(latents, s.timesteps[0], latents).prev_sample for s in (found, expected)))


def test_a_model_with_eulers_scheduler_has_the_bundled_models_numbers(tmp_path):
    """Against the folder with DDIM's own scheduler: D of every step and the final latents."""
    euler = {"_class_name": "EulerDiscreteScheduler", **dict(of_class("EulerDiscreteScheduler").config)}
    euler.pop("_use_default_values", None)
    found, expected = (
        memorization.detect(load_pipeline(folder), "the wild owl poster", num_inference_steps=20)[0]
        for folder in (model_copy(tmp_path / "m", scheduler=euler), MODEL)
    )
    assert torch.equal(found.observation.latents, expected.observation.latents)
    assert found.score() == expected.score() and found.score(T=None) == expected.score(T=None)
    assert found.observation.latents.abs().max() > 1.5  # not cut


def test_what_a_scheduler_declares_is_kept():
    zero_snr = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    kept = deciding_values(ddim_of(of_class("UniPCMultistepScheduler", **zero_snr)))
    assert {name: kept[name] for name in zero_snr} == zero_snr and kept["clip_sample"] is False
    own = diffusers.DDIMScheduler(**BETAS, timestep_spacing="linspace", set_alpha_to_one=True, clip_sample=False)
    assert deciding_values(ddim_of(own)) == deciding_values(own)
    given = [0.001 * (k + 1) for k in range(100)]
    found = ddim_of(of_class("DDPMScheduler", trained_betas=given, num_train_timesteps=100))
    assert torch.equal(found.betas, torch.tensor(given)) and "beta_start" not in deciding_values(found)
    other = ddim_of(of_class("DDPMScheduler", trained_betas=given[::-1], num_train_timesteps=100))
    assert deciding_values(found) != deciding_values(other)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), "FlowMatchEulerDiscreteScheduler is flow matching"),
        (diffusers.EDMEulerScheduler(), "EDMEulerScheduler is no sampler"),
        (of_class("LCMScheduler"), "LCMScheduler is no sampler"),
        (of_class("UniPCMultistepScheduler", use_flow_sigmas=True), "is flow matching"),
        (of_class("DDPMScheduler", beta_schedule="sigmoid"), "has beta_schedule 'sigmoid'"),
        (of_class("PNDMScheduler", prediction_type="velocity"), "has prediction_type 'velocity'"),
        (diffusers.EulerDiscreteScheduler.from_config({"num_train_timesteps": 1000}), "names no beta_start and no"),
    ],
)
def test_what_ddim_cannot_stand_in_for_is_refused(scheduler, message):
    with pytest.raises(ValueError, match=message):
        ddim_of(scheduler)


def test_a_folder_without_betas_ends_in_one_line(tmp_path, model_folder, capsys):
    config = {"_class_name": "DPMSolverMultistepScheduler", "num_train_timesteps": 1000}
    folder = model_copy(tmp_path / "m", model_folder, scheduler=config)
    with pytest.raises(SystemExit) as stop:
        detect_mem.main(["--model_id", str(folder), "--output_dir", str(tmp_path), "--end", "1"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "names no beta_start" in error


def test_a_pipeline_from_memory_with_another_sampler_ends_in_one_line(tmp_path, model_folder):
    pipe = load_pipeline(str(model_folder))
    ours, pipe.scheduler = pipe.scheduler, of_class("EulerDiscreteScheduler")
    with pytest.raises(memorization.InputError, match="EulerDiscreteScheduler of the given pipeline is not DDIM"):
        detect_mem.run(pipe=pipe, end=1, output_dir=tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))
    pipe.scheduler = ours
    assert len(detect_mem.run(pipe=pipe, end=1, num_inference_steps=2, output_dir=tmp_path).rows) == 1


def test_steps_that_cannot_be_and_a_first_step_without_signal():
    scheduler = diffusers.DDIMScheduler(**BUNDLED)
    assert first_timestep(scheduler, 50) == 981 and first_timestep(scheduler, 999) == 999
    for num_steps, message in (
        (1000, "start at timestep 1000, but the model's last is 999"),
        (1001, "more than the 1000"),
    ):
        with pytest.raises(ValueError, match=message):
            first_timestep(scheduler, num_steps)
    assert not is_blind_at_first(scheduler, 20)
    assert is_blind_at_first(diffusers.DDIMScheduler(**ZERO_SNR), 20)
    assert not is_blind_at_first(diffusers.DDIMScheduler(**ZERO_SNR | {"timestep_spacing": "leading"}), 20)
    with pytest.raises(ValueError, match="cannot start from pure noise"):
        is_blind_at_first(diffusers.DDIMScheduler(**ZERO_SNR | {"prediction_type": "epsilon"}), 20)
