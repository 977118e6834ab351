"""Mitigations by hand: edits of attention, starting noise; and `--method` on the command line."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import inference_mem
from attn_utils import CrossAttentionEdit, edit_cross_attention
from helpers.scale_runs import COMMON
from memorization.bundled import PLANTED
from memorization.data.prompts import load_prompts
from memorization.embedding_search import search_embedding
from memorization.mitigations.batch import ImageBatch
from memorization.ordinary import ordinary_text
from tools import search_embeddings

PROMPTS, SEEDS, STEPS = ["the golden owl mug", "a large red heart on the left"], [1, 2, 3], 4


@pytest.fixture(scope="module")
def images(pipe):
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    text, negative = pipe.encode(prompts)
    ends = [pipe.end_token(p) for p in prompts]
    return ImageBatch(pipe.initial_latents(SEEDS), SEEDS, list(text.split(1)), negative[:1], None, prompts, ends)


def prediction_of(pipe, images, *edits):
    with edit_cross_attention(pipe.unet, *edits):
        return pipe.predict_noise(images.latents, 500, (images.negatives(3), images.embeds()))


@torch.no_grad()
def test_an_edit_of_nothing_changes_nothing_and_one_branch_never_another(pipe, images):
    plain = prediction_of(pipe, images)
    for edit in (CrossAttentionEdit(), CrossAttentionEdit(scale_begin=3.0)):
        found = prediction_of(pipe, images, edit)
        torch.testing.assert_close(found.outputs[0], plain.outputs[0], rtol=1e-4, atol=1e-5)
        same = torch.allclose(found.outputs[1], plain.outputs[1], rtol=1e-4, atol=1e-5)
        assert same == (edit.scale_begin == 1)


@torch.no_grad()
def test_hidden_padding_is_as_if_it_were_not_there(pipe, images):
    """The two images of one prompt against a UNet call whose text ends with the end token."""
    rows, end = [0, 2], images.end_tokens[0]
    hidden = torch.arange(77)[None] > torch.tensor(images.end_tokens)[:, None]
    short = (images.negatives(2)[:, : end + 1], images.embeds()[rows, : end + 1])
    expected = pipe.predict_noise(images.latents[rows], 500, short).outputs
    for branches in ((1,), (0, 1)):
        edits = [CrossAttentionEdit(branch=b, hidden=hidden) for b in branches]
        found = prediction_of(pipe, images, *edits).outputs
        for branch in (0, 1):
            same = torch.allclose(found[branch][rows], expected[branch], rtol=1e-4, atol=1e-5)
            assert same == (branch in branches)


@torch.no_grad()
def test_scaled_begin_logits_equal_a_key_that_is_scaled(pipe, images):
    """A longer key of the begin token multiplies its logits: the same by other means."""
    found = prediction_of(pipe, images, CrossAttentionEdit(scale_begin=1.5)).outputs[1]
    hooks = []
    for name, module in pipe.unet.named_modules():
        if name.endswith("attn2.to_k"):

            def lengthen(module, inputs, output):
                output = output.clone()
                output[3:, 0] *= 1.5  # the text branch
                return output

            hooks.append(module.register_forward_hook(lengthen))
    expected = prediction_of(pipe, images).outputs[1]
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def infer(tmp_path, model_folder, loaded):
    """Run inference_mem.py on the tiny model; gives its row of two prompts and the images."""

    def infer(run_name, *more):
        common = [*COMMON, "--dataset", str(PLANTED / "planted_mem_groundtruth"), "--model_id", str(model_folder)]
        inference_mem.main([*common, "--output_dir", str(tmp_path), "--run_name", run_name, *map(str, more)], loaded)
        (path,) = (tmp_path / "det_outputs").glob(f"{run_name}_*_mitigation.jsonl")
        images = np.load(tmp_path / "images_data" / f"{run_name}_generated_images.npz")["images"]
        return [json.loads(line) for line in path.read_text().splitlines()], images

    return infer


def test_methods_are_chosen_by_name_and_strength(infer):
    _, plain = infer("plain")
    for name, strength in (("neuron_off", 0.2), ("init_noise_adam", 1), ("guard", 2)):
        target = ["--optim_target_loss", 1e-6] if name == "init_noise_adam" else []
        rows, images = infer(name, "--method", name, "--strength", strength, *target)
        assert rows[0]["method"] == name and not np.array_equal(images, plain)
        assert np.array_equal(infer(f"{name}_0", "--method", name, "--strength", 0)[1], plain)
    by_name, images = infer("pe_by_name", "--method", "pe", "--strength", 0.5)
    by_flag, same = infer("pe_by_flag", "--optim_target_loss", 0.5)
    assert np.array_equal(images, same) and by_name[0]["iterations"] == by_flag[0]["iterations"]
    assert np.array_equal(infer("pe_0", "--method", "pe", "--strength", 0)[1], plain)
    off = infer("off", "--method", "sail", "--strength", 0, "--optim_target_loss", 0.01)[1]
    assert np.array_equal(off, plain)
    stopped, images = infer("stopped", "--method", "sail", "--strength", 5, "--optim_target_loss", 1e9)
    assert np.array_equal(images, plain) and stopped[0]["iterations"] == [1] * len(stopped[0]["seeds"])
    assert stopped[0]["latent_norm"][0] == pytest.approx(32, rel=0.1)  # of 4 x 16 x 16 numbers


def test_noise_on_the_embedding_combines_with_other_words(infer):
    by_name, noisy = infer("by_name", "--method", "gni", "--strength", 0.5)
    by_flag, same = infer("by_flag", "--rand_noise_lam", 0.5)
    assert np.array_equal(noisy, same) and by_name[0]["triggered"] == by_flag[0]["triggered"]
    words = ("--prompt_aug_style", "rand_numb_add", "--repeat_num", 2)
    numbers, changed = infer("words", *words)
    both, other = infer("both", *words, "--rand_noise_lam", 0.5)
    assert [r["prompt_used"] for r in both] == [r["prompt_used"] for r in numbers] != [r["prompt"] for r in both]
    assert not any(np.array_equal(other, images) for images in (noisy, changed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strength", "1"], "give both"),
        (["--method", "sail", "--strength", "11"], "Adam steps on the starting noise, 10 at most"),
        (
            ["--method", "cfg_delay", "--strength", "0.2", "--optim_target_loss", "1"],
            "does not combine with --optim_target_loss",
        ),
        (["--method", "rt", "--strength", "1.5"], "--strength of rt is a whole number (number of words)"),
        (
            ["--method", "padding_fix", "--strength", "1", "--prompt_embeds", "e"],
            "which --prompt_embeds takes the place of",
        ),
        (["--method", "cfg_delay_dynamic", "--strength", "0.6"], "a whole number (none published: 1 is as released)"),
        (["--l_target_ss", "1", "--prompt_embeds", "e"], "do not combine with --prompt_embeds"),
        (["--method", "prss", "--prompt_embeds", "e"], "do not combine with --prompt_embeds"),
        (["--method", "sail", "--ordinary", "random"], "it goes with --method nemo, neuron_off"),
        (["--method", "sail", "--optim_target_loss", "0.5"], "0.05 times the norm of the noise is 1.6 alone"),
        (["--method", "init_noise"], "released with 2 on SD 1 and 4 on SD 2"),
        (["--method", "rna", "--strength", "1", "--prompt_embeds", "e"], "which --prompt_embeds takes the place of"),
    ],
)
def test_methods_that_mean_nothing_are_refused(infer, capsys, options, message):
    with pytest.raises(SystemExit):
        infer("x", *options)
    assert message in capsys.readouterr().err


def test_a_searched_embedding_denoises_its_image_better_and_takes_the_prompts_place(
    infer, pipe, model_folder, tmp_path, capsys
):
    image = np.full((1, 32, 32, 3), 200, np.uint8)
    latents, start = pipe.encode_images(image), pipe.encode(["the golden owl mug"])[0]
    found, losses = search_embedding(pipe, latents, start, 0, num_steps=30)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) and found.shape == start.shape
    again, _ = search_embedding(pipe, latents, start, 0, num_steps=2)
    assert torch.equal(again, search_embedding(pipe, latents, start, 0, num_steps=2)[0])
    _, plain = infer("plain")
    argv = ["--model_id", str(model_folder), "--num_steps", "2", "--output", str(tmp_path / "found.safetensors")]
    own = {str(k): pipe.encode([r.prompt])[0][0] for k, r in enumerate(load_prompts("planted_mem_groundtruth", 0, 3))}
    save_file(own, tmp_path / "own.safetensors")
    assert np.array_equal(infer("own", "--prompt_embeds", tmp_path / "own.safetensors")[1], plain)
    search_embeddings.main([*argv, "--end", "2"])
    first = load_file(tmp_path / "found.safetensors")
    search_embeddings.main([*argv, "--end", "3"])  # goes on with the prompt that is left
    whole = load_file(tmp_path / "found.safetensors")
    assert list(first) == ["0", "1"] and torch.equal(first["1"], whole["1"]) and len(whole) == 3
    assert not np.array_equal(infer("found", "--prompt_embeds", tmp_path / "found.safetensors")[1], plain)
    with pytest.raises(SystemExit):
        infer("few", "--prompt_embeds", tmp_path / "found.safetensors", "--end", 4)
    with pytest.raises(SystemExit):
        search_embeddings.main([*argv, "--gen_seed", "1"])
    assert "was searched with other settings" in capsys.readouterr().err


def test_ordinary_captions_are_the_bundled_ones_with_a_warning_or_those_that_are_given(infer, pipe, tmp_path, capsys):
    given = tmp_path / "mine.jsonl"
    given.write_text("".join(json.dumps({"caption": c}) + "\n" for c in PROMPTS))
    assert torch.equal(ordinary_text(pipe, str(given)), pipe.encode(PROMPTS)[0])
    assert "warning" not in capsys.readouterr().out
    bundled = load_prompts(str(PLANTED / "planted_ordinary.jsonl"))
    assert torch.equal(ordinary_text(pipe), pipe.encode([r.prompt for r in bundled])[0])
    assert "give captions of this model's kind by --ordinary" in capsys.readouterr().out
    usual = infer("usual", "--method", "neuron_off", "--strength", 0.2)[1]
    assert not np.array_equal(infer("mine", "--method", "neuron_off", "--strength", 0.2, "--ordinary", given)[1], usual)
