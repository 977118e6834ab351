"""Flux.1 in our own loop: equal to stock diffusers, D and attention against a computation by hand, what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

import detect_mem
import inference_mem
import memorization
from helpers.joint_attention import OpenJointAttention
from helpers.models import write_json
from helpers.other_pipelines import make_flux
from helpers.pipelines import final_latents, stock_images
from memorization.errors import InputError
from memorization.models.stable_diffusion import load_pipeline
from memorization.observation import Recorded, make_inputs, observe_batches

PROMPT, SEEDS, STEPS, GUIDANCE = "the wild owl poster", [3, 4, 5], 4, 2.5
SIDE = 8  # of the latents
END, TEXT = 4, 512  # the row of T5's end token, and all rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux")
    make_flux().save_pretrained(path)
    return path


def load(folder):
    pipe = load_pipeline(folder)
    pipe.default_sample_size = SIDE
    return pipe


@pytest.fixture(scope="module")
def flux(folder):
    return load(folder)


def generate(pipe, seeds=SEEDS, **how):
    return final_latents(pipe, PROMPT, seeds, num_inference_steps=STEPS, guidance_scale=GUIDANCE, **how)


@pytest.mark.parametrize(("is_dev", "scheduler"), [(True, None), (False, {})], ids=["dev", "schnell"])
def test_final_latents_and_images_equal_stock_diffusers(tmp_path, is_dev, scheduler):
    make_flux(is_dev, scheduler).save_pretrained(tmp_path)
    pipe, stock = load(tmp_path), FluxPipeline.from_pretrained(tmp_path)
    stock.set_progress_bar_config(disable=True)

    def call(output_type):
        how = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        return stock_images(stock, PROMPT, SEEDS, output_type, height=SIDE, width=SIDE, **how)

    ours = generate(pipe)
    assert ours.shape == (3, 4, SIDE, SIDE) and torch.equal(pipe._pack_latents(ours, *ours.shape), call("latent"))
    assert (pipe.decode(ours) == (call("np") * 255).round().astype("uint8")).all()


def test_d_and_the_attention_are_those_of_a_computation_by_hand(flux):
    inputs = make_inputs(flux, [PROMPT], [SEEDS])
    assert inputs.tokens.tolist() == [[END]] * 3
    layers, steps = flux.map_layers, []
    assert layers == ["transformer_blocks.0.attn.processor", "single_transformer_blocks.0.attn.processor"]
    how = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    seen = observe_batches(flux, inputs, 3, Recorded(flux.mask_layers, layers), **how)
    flux.generate(inputs.latents, inputs.embeds, callback=steps.append, **how)

    def predict(x, t, prompt):
        text, pooled, ids = flux.encode_prompt(prompt, None)
        image_ids = flux._prepare_latent_image_ids(1, SIDE // 2, SIDE // 2, "cpu", torch.float32)
        packed = flux._pack_latents(x[None], 1, *x.shape)
        t, guidance = torch.tensor([t / 1000]), torch.tensor([GUIDANCE])
        return flux.transformer(packed, text, pooled, t, image_ids, ids, guidance).sample[0]

    before, opened = flux.transformer.attn_processors, {name: OpenJointAttention() for name in layers}
    for k in range(3):
        for step in steps:
            x = step.latents[k]
            by_hand = (predict(x, step.timestep, PROMPT) - predict(x, step.timestep, "")).norm()
            assert seen.diff_maps[k, step.index].sum().sqrt().item() == pytest.approx(by_hand.item(), rel=1e-3)
        flux.transformer.set_attn_processor(before | opened)
        predict(steps[-1].latents[k], steps[-1].timestep, PROMPT)
        flux.transformer.set_attn_processor(dict(before))
    relative = []
    for name in layers:
        probs = torch.cat(opened[name].seen).mean(1)[:, TEXT:, :TEXT]
        end, every, columns = probs[..., END], probs.sum(2), seen.columns[name]
        torch.testing.assert_close(columns.raw["t5_end"].flatten(1), end, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(columns.raw["text"].flatten(1), every, rtol=1e-3, atol=1e-6)
        behind = probs[..., END + 1 :].sum(2) / every
        torch.testing.assert_close(columns.padding.flatten(1), behind, rtol=1e-3, atol=1e-6)
        relative.append(end / every)
    torch.testing.assert_close(seen.mask.flatten(1), torch.stack(relative).mean(0), rtol=1e-3, atol=1e-6)


def test_recording_changes_no_bit_and_images_depend_on_their_seed_alone(flux):
    before = flux.transformer.attn_processors
    store = flux.attention_store(flux.map_layers, torch.tensor([[END]] * 3), padding=False)
    plain = generate(flux)
    assert torch.equal(generate(flux, store=store), plain) and set(store.maps) == set(flux.map_layers)
    assert all(flux.transformer.attn_processors[name] is before[name] for name in before)
    torch.testing.assert_close(plain[1:2], generate(flux, SEEDS[1:2]), rtol=1e-3, atol=1e-4)


def test_what_is_measured_before_a_generation_has_its_guidance_scale(folder, tmp_path):
    rows = tmp_path / "p.jsonl"
    rows.write_text(json.dumps({"caption": PROMPT}) + "\n")
    how = {"dataset": str(rows), "output_dir": tmp_path, "num_inference_steps": 3, "image_length": SIDE}
    how |= {"model_id": str(folder)}
    usual = detect_mem.run(num_images_per_prompt=2, run_version="baseline", early_exit=2, **how)
    assert usual.settings["guidance_scale"] == 3.5 and usual.settings["scheduler"]["prediction_type"] == "velocity"
    told = detect_mem.run(num_images_per_prompt=2, guidance_scale=9.0, run_name="told", **how)
    d = np.array(told.rows[0]["text_noise_norm"])[:, 0]
    assert np.abs(d - np.array(usual.rows[0]["text_noise_norm"])[:, 0]).min() > 1e-4
    pe = inference_mem.run(num_images_per_prompt=2, guidance_scale=9.0, optim_target_loss=0.01, **how)
    np.testing.assert_allclose(pe.rows[0]["magnitude_before"], d, rtol=1e-3)
    assert (np.array(pe.rows[0]["magnitude_after"]) < d).all()


@pytest.mark.parametrize(("method", "strength"), [("pe", 0.01), ("gni", 1), ("rna", 2)])
def test_mitigations_act_and_strength_0_is_plain_generation(flux, method, strength):
    how = {"num_inference_steps": STEPS}
    (plain,) = memorization.detect(flux, PROMPT, **how)
    (off,) = memorization.mitigate(flux, PROMPT, method, 0, **how)
    (on,) = memorization.mitigate(flux, PROMPT, method, strength, **how)
    assert (off.images == plain.images).all() and (on.images != plain.images).any()


def test_what_is_not_defined_is_one_line(flux, folder, tmp_path):
    for method in ("cfg_delay", "prss"):
        with pytest.raises(InputError, match=f"^{method} is not defined for Flux.1, whose guidance is distilled"):
            memorization.mitigate(flux, PROMPT, method, 1, num_inference_steps=2)
    without, fill = tmp_path / "without", tmp_path / "fill"
    for path in (without, fill):
        shutil.copytree(folder, path)
    index = json.loads((folder / "model_index.json").read_text())
    write_json(without / "model_index.json", index | {"text_encoder_2": [None, None]})
    write_json(fill / "model_index.json", index | {"_class_name": "FluxFillPipeline"})
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (tmp_path / "wrong").mkdir()
    shutil.copy(next((folder / "transformer").glob("*.safetensors")), tmp_path / "wrong")
    write_json(tmp_path / "wrong" / "config.json", config | {"in_channels": 32})
    for how, message in (
        ({"model_id": without}, "has no text_encoder_2, which Flux.1 cannot do without"),
        ({"model_id": fill}, "is no folder of Stable Diffusion 1, 2, XL, 3 or Flux.1"),
        ({"transformer_id": tmp_path / "wrong"}, "cannot load a transformer from .*wrong"),
        ({"embedding": ["x.safetensors"]}, "--embedding is read for Stable Diffusion 1 and 2"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load_pipeline(**{"model_id": folder} | how)
        assert "\n" not in str(error.value)
