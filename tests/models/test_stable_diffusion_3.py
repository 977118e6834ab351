"""Stable Diffusion 3 in our own loop: equal to stock diffusers, D and attention against a computation by hand, loading,
what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import detect_mem
import inference_mem
import memorization
from helpers.joint_attention import OpenJointAttention
from helpers.models import set_scheduler, write_json
from helpers.other_pipelines import make_sd3
from helpers.pipelines import final_latents, stock_images
from memorization.errors import InputError
from memorization.models.stable_diffusion import attach_base, load_pipeline
from memorization.observation import Recorded, make_inputs, observe_batches

PROMPT, SEEDS, STEPS, GUIDANCE = "the wild owl poster", [3, 4, 5], 4, 5.0
CONFIG = {"num_layers": 2, "patch_size": 2, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}
CLIP_END, T5_END = 5, 77 + 4  # rows of the prompt's end tokens: CLIP's begins with a token that T5 does not have


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sd3")
    make_sd3(has_t5=True, scheduler={"shift": 3.0}, **CONFIG).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def sd3(folder):
    return load_pipeline(folder)


def generate(pipe, seeds=SEEDS, **how):
    return final_latents(pipe, PROMPT, seeds, num_inference_steps=STEPS, guidance_scale=GUIDANCE, **how)


@pytest.mark.parametrize("scheduler", [{"shift": 3.0}, {"use_dynamic_shifting": True, "base_shift": 0.3}])
@pytest.mark.parametrize("has_t5", [True, False])
def test_final_latents_and_images_equal_stock_diffusers(tmp_path, has_t5, scheduler):
    make_sd3(has_t5, scheduler, **CONFIG).save_pretrained(tmp_path)
    pipe = load_pipeline(tmp_path)
    absent = {} if has_t5 else {"text_encoder_3": None, "tokenizer_3": None}
    stock = StableDiffusion3Pipeline.from_pretrained(tmp_path, **absent)
    stock.set_progress_bar_config(disable=True)

    def call(output_type):
        how = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        return stock_images(stock, PROMPT, SEEDS, output_type, **how)

    ours = generate(pipe)
    assert torch.equal(ours, call("latent"))
    assert (pipe.decode(ours) == (call("np") * 255).round().astype("uint8")).all()


def test_d_and_the_attention_are_those_of_a_computation_by_hand(sd3):
    inputs = make_inputs(sd3, [PROMPT], [SEEDS])
    assert inputs.tokens.tolist() == [[CLIP_END, T5_END]] * 3
    recorded, layers, steps = Recorded(sd3.mask_layers, sd3.map_layers), sd3.map_layers, []
    assert layers == ["transformer_blocks.0.attn.processor", "transformer_blocks.1.attn.processor"]
    how = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    seen = observe_batches(sd3, inputs, 3, recorded, **how)
    sd3.generate(inputs.latents, inputs.embeds, callback=steps.append, **how)
    text, _, pooled, _ = sd3.encode_prompt(PROMPT, None, None, do_classifier_free_guidance=False)
    negative, _, negative_pooled, _ = sd3.encode_prompt("", None, None, do_classifier_free_guidance=False)

    def predict(x, t, text, pooled):
        return sd3.transformer(x[None], text, pooled, torch.tensor([t])).sample[0]

    before, opened = sd3.transformer.attn_processors, {name: OpenJointAttention() for name in layers}
    for k in range(3):
        for step in steps:
            x = step.latents[k]
            both = ((text, pooled), (negative, negative_pooled))
            given, without = (predict(x, step.timestep, *features) for features in both)
            found = seen.diff_maps[k, step.index].sum().sqrt().item()
            assert found == pytest.approx((given - without).norm().item(), rel=1e-3)
        sd3.transformer.set_attn_processor(before | opened)
        predict(steps[-1].latents[k], steps[-1].timestep, text, pooled)
        sd3.transformer.set_attn_processor(dict(before))
    relative = []
    for name in layers:
        probs = torch.cat(opened[name].seen).mean(1)[:, 333:, :333]
        every, ends = probs.sum(2), probs[:, :, [CLIP_END, T5_END]]
        columns = seen.columns[name]
        for key, values in {"clip_end": ends[..., 0], "t5_end": ends[..., 1], "text": every}.items():
            torch.testing.assert_close(columns.raw[key].flatten(1), values, rtol=1e-3, atol=1e-6)
        relative.append(ends.sum(2) / every)
        torch.testing.assert_close(columns.end.flatten(1), relative[-1], rtol=1e-3, atol=1e-6)
        behind = torch.cat([probs[:, :, CLIP_END + 1 : 77], probs[:, :, T5_END + 1 :]], 2).sum(2) / every
        torch.testing.assert_close(columns.padding.flatten(1), behind, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(seen.mask.flatten(1), torch.stack(relative).mean(0), rtol=1e-3, atol=1e-6)
    assert seen.mask.shape == (3, 1, 4, 4)


def test_recording_changes_no_bit_and_is_over_afterwards(sd3):
    before = sd3.transformer.attn_processors
    store = sd3.attention_store(sd3.map_layers, torch.tensor([[CLIP_END, T5_END]] * 3), padding=True)
    assert torch.equal(generate(sd3, store=store), generate(sd3))
    assert set(store.maps) == set(sd3.map_layers)
    assert all(sd3.transformer.attn_processors[name] is before[name] for name in before)


def test_an_image_depends_on_its_seed_alone(sd3):
    torch.testing.assert_close(generate(sd3)[1:2], generate(sd3, SEEDS[1:2]), rtol=1e-3, atol=1e-4)


def write_prompts(path):
    rows = [{"caption": PROMPT}, {"caption": "a small red car"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_says_what_d_is_of_and_at_which_guidance(folder, tmp_path, capsys):
    how = {"dataset": str(write_prompts(tmp_path / "p.jsonl")), "output_dir": tmp_path, "num_inference_steps": 3}
    how |= {"num_images_per_prompt": 2}
    run = detect_mem.run(model_id=str(folder), store_maps=True, scores="all", **how)
    settings = run.settings
    assert settings["guidance_scale"] == 7.0 and settings["scheduler"]["prediction_type"] == "velocity"
    assert settings["scheduler"]["shift"] == 3.0 and settings["dtype"] == "torch.float32"
    row = run.rows[0]
    assert {"text_noise_norm_masked", "condition_jacobian", "curvature_diff", "tiled_l2"} <= set(row)
    assert not {"sharpness", "hessian_map", "token_significance_end", "attention_entropy"} & set(row)
    maps = np.load(run.files.map(0))
    assert {"raw.t5_end.transformer_blocks.1.attn.processor", "end.transformer_blocks.0.attn.processor"} <= set(maps)
    plain = inference_mem.run(model_id=str(folder), optim_target_loss=0.01, **how)
    assert "targets of pe are in units of D of the velocity" in capsys.readouterr().err
    np.testing.assert_allclose(plain.rows[0]["magnitude_before"], np.array(row["text_noise_norm"])[:, 0], rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "strength"),
    [("pe", 0.01), ("gni", 1), ("cfg_delay", 0.5), ("cfg_opposite", 2), ("cfg_delay_capped", 0.5), ("rna", 2)],
)
def test_mitigations_act_and_strength_0_is_plain_generation(sd3, method, strength):
    how = {"num_inference_steps": STEPS}
    (plain,) = memorization.detect(sd3, PROMPT, **how)
    (off,) = memorization.mitigate(sd3, PROMPT, method, 0, **how)
    (on,) = memorization.mitigate(sd3, PROMPT, method, strength, **how)
    assert (off.images == plain.images).all() and (on.images != plain.images).any()


def test_what_is_not_defined_is_one_line(sd3):
    how = {"num_inference_steps": 2}
    for method, message in {
        "padding_fix": "which has several text encoders",
        "guard": "whose attention is over image and text together",
        "init_noise": "which predicts velocities, not noise",
    }.items():
        with pytest.raises(InputError, match=f"^{method} is not defined for Stable Diffusion 3, {message}$"):
            memorization.mitigate(sd3, PROMPT, method, 1, **how)
    with pytest.raises(InputError, match="^--scores sharpness is not defined for Stable Diffusion 3, which predicts"):
        memorization.detect(sd3, PROMPT, scores="sharpness", **how)


def test_another_transformer_takes_the_place_of_the_models_own(folder, tmp_path):
    other = make_sd3(**CONFIG).transformer
    with torch.no_grad():
        other.proj_out.weight.mul_(2)
    other.save_pretrained(tmp_path / "transformer")
    base, loaded = load_pipeline(folder), load_pipeline(folder, transformer_id=tmp_path)
    assert torch.equal(loaded.transformer.proj_out.weight, other.proj_out.weight)
    attach_base(loaded, base)
    (found,) = memorization.detect(loaded, PROMPT, scores="tuned_minus_base", num_inference_steps=2)
    assert found.scores["tuned_minus_base"] == pytest.approx(found.score() / 2, rel=1e-3)


def test_a_lora_is_merged(folder, sd3, tmp_path):
    peft = pytest.importorskip("peft")
    tuned, name = make_sd3(has_t5=True, **CONFIG), "transformer_blocks.0.attn.to_q"
    tuned.transformer.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False))
    lora = peft.get_peft_model_state_dict(tuned.transformer)
    StableDiffusion3Pipeline.save_lora_weights(tmp_path, transformer_lora_layers=lora)
    merged = load_pipeline(folder, lora=[f"{tmp_path}:0.5"]).transformer.get_submodule(name).weight
    up, down = (lora[f"{name}.lora_{k}.weight"] for k in "BA")
    torch.testing.assert_close(merged, sd3.transformer.get_submodule(name).weight + 0.5 * up @ down)


def test_wrong_parts_are_refused_in_one_line(folder, model_folder, tmp_path):
    wide = make_sd3(**CONFIG | {"pooled_projection_dim": 48}).transformer
    wide.save_pretrained(tmp_path / "wide")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (tmp_path / "other").mkdir()
    write_json(tmp_path / "other" / "config.json", config | {"_class_name": "FluxTransformer2DModel"})
    shutil.copy(next((folder / "transformer").glob("*.safetensors")), tmp_path / "other")
    flow, incomplete = tmp_path / "flow", tmp_path / "incomplete"
    for path in (flow, incomplete):
        shutil.copytree(folder, path)
    set_scheduler(flow, {"_class_name": "DDIMScheduler"})
    index = json.loads((folder / "model_index.json").read_text())
    write_json(incomplete / "model_index.json", index | {"text_encoder_2": [None, None]})
    for how, message in (
        ({"transformer_id": tmp_path / "wide"}, "has 48 for the width of pooled text, the text encoders' 32"),
        ({"transformer_id": tmp_path / "other"}, "is a FluxTransformer2DModel: it is none of Stable Diffusion 3"),
        ({"unet_id": model_folder}, "--unet_id has no place here: .* give --transformer_id"),
        ({"model_id": model_folder, "transformer_id": folder}, "give --unet_id"),
        ({"model_id": flow}, "DDIMScheduler is not the FlowMatchEulerDiscreteScheduler"),
        ({"model_id": incomplete}, "has no text_encoder_2, which Stable Diffusion 3 cannot do without"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load_pipeline(**{"model_id": folder} | how)
        assert "\n" not in str(error.value)
