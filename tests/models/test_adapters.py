"""LoRAs and textual inversion: merged as their weights say, and part of what a run is tied to."""

import itertools
import json
import logging
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

import detect_mem
import memorization
from helpers.loras import make_loras, merge_by_hand
from helpers.other_pipelines import make_flux, make_sd3, make_sdxl
from memorization.models import adapters
from memorization.models.adapters import split_scale, split_token
from memorization.models.contents import pipeline_contents
from memorization.models.stable_diffusion import load_pipeline

FEW = {"num_inference_steps": 2, "gen_seed": 5}
UNET_LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def made(model_folder, tmp_path_factory):
    return make_loras(load_pipeline(model_folder), tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def loras(made):
    """Paths by format."""
    return made[0]


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_weights_and_d_are_those_of_the_merged_matrices(model_folder, made, form):
    loras, states = made
    base, tuned = load_pipeline(model_folder), load_pipeline(model_folder, lora=[f"{loras[form]}:0.5"])
    merge_by_hand(base, states, 0.5)
    for name in ("unet", "text_encoder"):
        expected, found = (getattr(pipe, name).state_dict() for pipe in (base, tuned))
        assert expected.keys() == found.keys()
        assert all(torch.allclose(found[key], expected[key], atol=1e-6) for key in expected)
        getattr(base, name).load_state_dict(found)
    (a,), (b,) = (memorization.detect(pipe, "the wild owl poster", **FEW) for pipe in (base, tuned))
    (plain,) = memorization.detect(load_pipeline(model_folder), "the wild owl poster", **FEW)
    assert a.score() == b.score() != plain.score()


FAMILIES = {"sdxl": make_sdxl, "sd3": lambda: make_sd3(has_t5=True), "flux": make_flux}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """By family a folder, with its LoRAs by format and their matrices."""

    @cache
    def made(name):
        folder = tmp_path_factory.mktemp(name)
        FAMILIES[name]().save_pretrained(folder)
        return folder, *make_loras(load_pipeline(folder), tmp_path_factory.mktemp(f"lora_{name}"))

    return made


def first_prediction(pipe):
    text, negative = pipe.encode(["the wild owl poster"])
    return torch.stack(pipe.predict_noise(pipe.initial_latents([1], 8), 500, (negative, text)).outputs)


@pytest.mark.parametrize(
    ("family", "form"), [("sdxl", "diffusers"), ("sdxl", "kohya"), ("sd3", "diffusers"), ("flux", "diffusers")]
)
def test_a_lora_of_another_family_predicts_as_the_merged_matrices(others, family, form):
    folder, loras, states = others(family)
    tuned, none = (load_pipeline(folder, lora=[f"{loras[form]}:{scale}"]) for scale in (0.5, 0))
    base = load_pipeline(folder)
    plain = first_prediction(base)
    assert torch.equal(first_prediction(none), plain)
    merge_by_hand(base, states, 0.5)
    base.empty_embeds = None
    torch.testing.assert_close(first_prediction(tuned), first_prediction(base))
    assert (first_prediction(tuned) - plain).abs().max() > 0.01


def test_what_is_more_than_a_lora_is_refused_in_one_line(others, tmp_path):
    folder, loras, _ = others("flux")
    state, first = load_file(loras["diffusers"]), "transformer.transformer_blocks.0.attn."
    wide = {"transformer.x_embedder.lora_A.weight": torch.ones(2, 32)}  # of twice the channels
    wide["transformer.x_embedder.lora_B.weight"] = torch.ones(32, 2)
    for more, message in (
        ({f"{first}norm_q.weight": torch.ones(16)}, f"it is more than a LoRA: it has {first}norm_q.weight"),
        ({f"{first}to_q.dora_scale": torch.ones(32)}, "it is a DoRA, which at scale 0"),
        (wide, "it makes layers wider, .*; it belongs to another model"),
    ):
        save_file(state | more, tmp_path / "more.safetensors")
        with pytest.raises(ValueError, match=f"cannot merge LoRA .*more.safetensors: {message}") as refused:
            load_pipeline(folder, lora=[str(tmp_path / "more.safetensors")])
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("where", ["file.safetensors", "file.bin", "hub"])
@pytest.mark.parametrize("form", ["diffusers", "kohya", "peft"])
def test_a_dora_of_any_kind_is_refused_in_one_line(model_folder, loras, tmp_path, monkeypatch, form, where):
    state = load_file(loras["kohya" if form == "kohya" else "diffusers"])
    layer = next(key for key in state if "to_q" in key and "unet" in key).split(".lora")[0]
    names = {"diffusers": "dora_scale", "kohya": "dora_scale", "peft": "lora_magnitude_vector"}
    state[f"{layer}.{names[form]}"] = torch.ones(16)
    name = adapters.LORA_FILE if where == "hub" else where
    (torch.save if where.endswith("bin") else save_file)(state, tmp_path / name)
    if where == "hub":  # diffusers reads a folder as it reads a repository
        monkeypatch.setattr(adapters, "looks_local", lambda name: False)
    given = tmp_path if where == "hub" else tmp_path / name
    with pytest.raises(ValueError, match=f"cannot merge LoRA {given}: it is a DoRA, which at scale 0") as refused:
        load_pipeline(model_folder, lora=[str(given)])
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("error")
def test_a_lora_of_another_model_is_refused_in_one_line(model_folder, loras, others, caplog, monkeypatch):
    made = {"sd": (model_folder, loras)} | {name: others(name)[:2] for name in FAMILIES}
    monkeypatch.setattr(logging.getLogger("diffusers"), "handlers", [caplog.handler])
    for model, other in itertools.permutations(made, 2):
        if (model, other) == ("flux", "sd3"):  # tiny ones, whose layers have the same names and shapes
            continue
        for path in made[other][1].values():
            with pytest.raises(ValueError, match=f"cannot merge LoRA {path}: .*it belongs to another model") as refused:
                load_pipeline(made[model][0], lora=[str(path)])
            assert "\n" not in str(refused.value)
    assert not caplog.records


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
    for vae_id, message in ((tmp_path / "nowhere", "it does not exist"), (model_folder / "unet", "it is a UNet2D")):
        with pytest.raises(ValueError, match=f"cannot load a VAE from .*: {message}"):
            load_pipeline(model_folder, vae_id=vae_id)
