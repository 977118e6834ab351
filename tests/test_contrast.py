"""Generation by contrast with a base: the same loop, guided away from what the base predicts without a prompt."""

import pytest
import torch

import inference_mem
from helpers.pipelines import make_pipeline
from helpers.released_loops import image_batch
from helpers.scale_runs import COMMON
from memorization.bundled import PLANTED
from memorization.contrast import generate_by_contrast
from memorization.finished_runs import method_of, read_run, strength_of
from memorization.mitigations.batch import MitigationOptions

STEPS, SCALE = 4, 3.0


@pytest.fixture(scope="module")
def tuned():
    """A model with a base: other weights."""
    pipe, base = make_pipeline(latent=8), make_pipeline(latent=8)
    for parameter in pipe.unet.parameters():
        parameter.mul_(1.05)
    pipe.base = base
    return pipe, image_batch(pipe, ["the golden owl mug", "a large red heart"], [1, 2])


@torch.no_grad()
def test_contrast_is_the_published_formula_in_a_loop_written_out(tuned):
    pipe, images = tuned
    found = generate_by_contrast(pipe, MitigationOptions(num_inference_steps=STEPS), images, SCALE)
    latents, base = images.latents, pipe.base
    text, empty = images.embeds(), base.encode([""])[1].expand(2, -1, -1)
    pipe.scheduler.set_timesteps(STEPS)
    for t in pipe.scheduler.timesteps:
        before = base.unet(latents, t, encoder_hidden_states=empty).sample
        after = pipe.unet(latents, t, encoder_hidden_states=text).sample
        latents = pipe.scheduler.step(before + SCALE * (after - before), t, latents).prev_sample
    torch.testing.assert_close(found.latents, latents, rtol=1e-4, atol=1e-4)
    assert found.unet_evals == [3 * STEPS] * 2


def test_a_run_by_contrast_says_so_and_what_it_lacks_is_refused(tuned, tmp_path, capsys):
    pipe, _ = tuned
    how = [*COMMON, "--dataset", str(PLANTED / "planted_memorized.jsonl"), "--output_dir", str(tmp_path)]
    inference_mem.main([*how, "--contrast", "5", "--base_model_id", "own"], pipe)
    run = read_run(tmp_path / "det_outputs" / "test_contrast_mitigation.jsonl")
    assert (method_of(run), strength_of(run)) == ("contrast", 5.0)
    for wrong, told in (
        (["--contrast", "5"], "it goes with --base_model_id"),
        (["--base_model_id", "own"], "it goes with --base_model_id"),
        (
            ["--contrast", "5", "--base_model_id", "own", "--method", "sail", "--strength", "4"],
            "does not combine with sail",
        ),
    ):
        with pytest.raises(SystemExit):
            inference_mem.main([*how, *wrong], pipe)
        assert told in capsys.readouterr().err
    pipe.base = None
    with pytest.raises(SystemExit):
        inference_mem.main([*how, "--contrast", "4", "--base_model_id", "own", "--run_name", "no_base"], pipe)
    assert "give it by --base_model_id" in capsys.readouterr().err
