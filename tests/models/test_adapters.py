"""LoRAs and textual inversion: merged as their weights say, and part of what a run is tied to."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

import detect_mem
import memorization
from memorization.models import adapters
from memorization.models.adapters import split_scale, split_token
from memorization.models.contents import pipeline_contents
from memorization.models.stable_diffusion import load_pipeline

FEW = {"num_inference_steps": 2, "gen_seed": 5}
RANK, ALPHA = 2, 6
UNET_LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def loras(model_folder, tmp_path_factory):
    """A LoRA by peft, in diffusers' and in kohya's keys, paths by format: on the UNet, and on the text encoder where
    transformers finds a peft that is new enough for it."""
    pipe, folder = load_pipeline(model_folder), tmp_path_factory.mktemp("lora")
    generator, states = torch.Generator().manual_seed(3), {}
    for name, targets in (("unet", ["to_q", "to_k", "to_v", "to_out.0"]), ("text_encoder", ["q_proj", "v_proj"])):
        part = getattr(pipe, name)
        try:
            part.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
        except ValueError as error:
            assert "PEFT" in str(error) and name == "text_encoder"
            continue
        for key, weight in part.named_parameters():
            if "lora_" in key:
                weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
        states[name] = get_peft_model_state_dict(part)
    layers = {f"{name}_lora_layers": state for name, state in states.items()}
    told = {f"{name}_lora_adapter_metadata": getattr(pipe, name).peft_config["default"].to_dict() for name in states}
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **told)
    kohya = {}
    for name, state in states.items():
        for key, weight in state.items():
            layer, end = key.rsplit(".lora_", 1)
            stem = f"lora_{'te' if name == 'text_encoder' else 'unet'}_{layer.replace('.', '_')}"
            kohya[f"{stem}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = weight
            kohya[f"{stem}.alpha"] = torch.tensor(float(ALPHA))
    save_file(kohya, folder / "kohya.safetensors")
    return {"diffusers": folder / adapters.LORA_FILE, "kohya": folder / "kohya.safetensors"}


def merged_by_hand(pipe, saved, scale):
    """The UNet's layer with the low-rank product of its matrices."""
    up, down = (next(v for k, v in saved.items() if UNET_LAYER in k and name in k) for name in ("lora_B", "lora_A"))
    return pipe.unet.get_submodule(UNET_LAYER).weight + scale * ALPHA / RANK * up @ down


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_weights_and_d_are_those_of_the_merged_matrices(model_folder, loras, form):
    base, tuned = load_pipeline(model_folder), load_pipeline(model_folder, lora=[f"{loras[form]}:0.5"])
    expected = merged_by_hand(base, load_file(loras["diffusers"]), 0.5)
    torch.testing.assert_close(tuned.unet.get_submodule(UNET_LAYER).weight, expected)
    for name in ("unet", "text_encoder"):
        assert getattr(tuned, name).state_dict().keys() == getattr(base, name).state_dict().keys()
        getattr(base, name).load_state_dict(getattr(tuned, name).state_dict())
    (a,), (b,) = (memorization.detect(pipe, "the wild owl poster", **FEW) for pipe in (base, tuned))
    (plain,) = memorization.detect(load_pipeline(model_folder), "the wild owl poster", **FEW)
    assert a.score() == b.score() != plain.score()


def test_both_formats_are_one_model_and_scale_0_is_the_base(model_folder, loras):
    base = load_pipeline(model_folder)
    one, other = (load_pipeline(model_folder, lora=[str(path)]) for path in loras.values())
    none = load_pipeline(model_folder, lora=[f"{loras['kohya']}:0"])
    for name in ("unet", "text_encoder"):
        states = [getattr(pipe, name).state_dict() for pipe in (base, none, one, other)]
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
        assert all(torch.allclose(states[2][k], states[3][k], atol=1e-6) for k in states[0])
    assert not torch.equal(base.unet.get_submodule(UNET_LAYER).weight, one.unet.get_submodule(UNET_LAYER).weight)


def test_a_run_is_tied_to_its_loras(model_folder, loras, tmp_path, capsys):
    argv = ["--model_id", model_folder, "--num_inference_steps", 2, "--end", 1, "--num_images_per_prompt", 1]
    argv += ["--output_dir", tmp_path / "out"]

    def detect(*options):
        detect_mem.main([str(word) for word in (*argv, *options)])
        return json.loads((tmp_path / "out" / "det_outputs" / "test_ours.jsonl").read_text().splitlines()[0])

    lora = tmp_path / "one.safetensors"
    lora.write_bytes(loras["diffusers"].read_bytes())
    first = detect("--lora", lora)
    moved = tmp_path / "moved.safetensors"
    lora.rename(moved)
    assert detect("--lora", moved) == first  # its content is the same
    for options in ((), ("--lora", f"{moved}:0.5"), ("--lora", moved, "--lora", moved)):
        with pytest.raises(SystemExit) as stopped:
            detect(*options)
        assert stopped.value.code == 2 and "lora" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.5", ("a.safetensors", 0.5)),
        ("me/lora:-1", ("me/lora", -1.0)),
        ("C:lora", ("C:lora", 1.0)),
    ],
)
def test_a_scale_stands_behind_a_colon(text, expected):
    assert split_scale(text) == expected


def write_state(path, state):
    save_file({k: torch.zeros(v) for k, v in state.items()}, path)
    return path


def test_a_lora_that_cannot_be_merged_is_refused_in_one_line(model_folder, loras, tmp_path, monkeypatch):
    layer = f"unet.{UNET_LAYER}.lora_"
    wide = write_state(tmp_path / "wide.safetensors", {f"{layer}A.weight": (2, 99), f"{layer}B.weight": (64, 2)})
    deep = {f"unet.down_blocks.9.attentions.0.to_k.lora_{x}.weight": s for x, s in (("A", (2, 16)), ("B", (16, 2)))}
    empty = tmp_path / "none"
    empty.mkdir()
    for given, message in (
        (wide, "cannot merge LoRA .*wide.safetensors"),
        (write_state(tmp_path / "deep.safetensors", deep), "cannot merge LoRA .*deep.safetensors"),
        (write_state(tmp_path / "no.safetensors", {"weight": (2, 2)}), "cannot merge LoRA .*no.safetensors"),
        (tmp_path / "nowhere.safetensors", "nowhere.safetensors does not exist; give a file, a folder"),
        (empty, "none has 0 files of weights"),
        (f"{loras['kohya']}:inf", "is inf; give a finite number"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            load_pipeline(model_folder, lora=[str(given)])
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(adapters, "is_peft_available", lambda: False)
    with pytest.raises(ValueError, match=r"needs the package peft: pip install -e "):
        load_pipeline(model_folder, lora=[str(loras["kohya"])])


def test_a_token_of_textual_inversion_is_read_and_has_its_vectors(model_folder, tmp_path):
    vectors = torch.randn(2, load_pipeline(model_folder).text_encoder.config.hidden_size)
    save_file({"<owl>": vectors}, tmp_path / "named.safetensors")
    save_file({"emb_params": vectors}, tmp_path / "wolf.safetensors")
    pipe = load_pipeline(model_folder, embedding=[str(tmp_path / f"{n}.safetensors") for n in ("named", "wolf")])
    table = pipe.text_encoder.get_input_embeddings().weight
    for token in ("<owl>", "wolf"):
        ids = pipe.token_ids(f"a {token}")[2:-1]
        torch.testing.assert_close(table[ids], vectors)
    contents = pipeline_contents(pipe)
    assert contents["embedding"].startswith("files:") and "lora" not in contents
    renamed = load_pipeline(model_folder, embedding=[f"{tmp_path / 'named.safetensors'}:<fox>"])
    assert len(renamed.token_ids("a <fox>")) == 5
    assert split_token("me/owl") == ("me/owl", None)
    save_file({"<bad>": torch.zeros(1, 999)}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="cannot add embedding .*bad.safetensors"):
        load_pipeline(model_folder, embedding=[str(tmp_path / "bad.safetensors")])


def test_another_vae_decodes_and_is_part_of_the_run(model_folder, tmp_path):
    pipe = load_pipeline(model_folder)
    other = type(pipe.vae).from_config(pipe.vae.config)
    other.save_pretrained(tmp_path / "vae")
    for vae_id in (tmp_path, tmp_path / "vae"):
        loaded = load_pipeline(model_folder, vae_id=vae_id)
        assert torch.equal(loaded.vae.decoder.conv_in.weight, other.decoder.conv_in.weight)
    assert pipeline_contents(loaded)["vae_id"] != pipeline_contents(pipe)["model_id"]
    with pytest.raises(ValueError, match="cannot load a VAE from .*nowhere: it does not exist"):
        load_pipeline(model_folder, vae_id=tmp_path / "nowhere")
