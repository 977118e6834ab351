"""Fine-tuning for a few steps, resumed; the options that keep from memorizing; caption swap on the tiny model."""

import torch
from safetensors.torch import load_file

from experiments import caption_swap
from memorization.models.stable_diffusion import load_pipeline
from tools import finetune_memorize


def finetune(model_folder, output, *more):
    common = ["--model_id", str(model_folder), "--output", str(output), "--duplicates", "2", "--batch_size", "2"]
    finetune_memorize.main([*common, *map(str, more)])
    return load_file(output / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_few_steps_change_the_unet_and_go_on_from_a_checkpoint(model_folder, tmp_path, capsys):
    before = load_pipeline(str(model_folder)).unet.state_dict()
    words = ("--random_words", 0.5)
    first = finetune(model_folder, tmp_path / "a", "--steps", 2, "--checkpoint_every", 1, *words)
    assert any(not torch.equal(first[k], before[k]) for k in before)
    assert "0.0% of the samples dropped" in capsys.readouterr().out
    again = finetune(model_folder, tmp_path / "a", "--steps", 2, *words)
    assert all(torch.equal(first[k], again[k]) for k in first)
    more = finetune(model_folder, tmp_path / "a", "--steps", 3, *words)
    assert any(not torch.equal(first[k], more[k]) for k in first)
    tuned = load_pipeline(str(model_folder), unet_id=str(tmp_path / "a"))
    assert torch.equal(tuned.unet.conv_in.weight, more["conv_in.weight"])


def test_samples_above_the_threshold_are_dropped(model_folder, tmp_path, capsys):
    finetune(model_folder, tmp_path / "b", "--steps", 2, "--drop_above", 0)
    dropped = float(capsys.readouterr().out.split(" steps, ")[1].split("%")[0])
    assert dropped > 50  # all but those whose caption was left empty, where D is 0


def test_caption_swap_gives_a_table_with_intervals(model_folder, tmp_path, capsys):
    path = tmp_path / "swap.md"
    common = ["--model_id", str(model_folder), "--end", "3", "--timesteps", "500", "--num_images", "1"]
    caption_swap.main([*common, "--output", str(path)])
    lines = path.read_text().splitlines()
    assert lines[0].startswith("| score") and {line.split("|")[1].strip() for line in lines[2:]} >= {"D", "sharpness"}
    assert "[" in lines[2]
