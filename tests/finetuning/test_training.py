"""The loss, what acts on embeddings, and what a training ends with, against stock diffusers and by hand."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from scipy import stats

from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.errors import InputError
from memorization.files.whole import FolderLock
from memorization.finetuning import training as training_module
from memorization.finetuning import validation
from memorization.finetuning.base import Acting, parse_mitigation
from memorization.finetuning.draws import token_ids
from memorization.finetuning.latents import EncodedPictures
from memorization.finetuning.loss import TrainingLoss
from memorization.finetuning.parts import add_lora
from memorization.models.stable_diffusion import load_pipeline
from noise_norms import noise_diff_norm
from tools import finetune_memorize

SEEDS = (11, 12, 13)


def generators():
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for k in range(3):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"the wild owl number {k}")
    return folder


@pytest.fixture
def finetune(model_folder, pairs, tmp_path):
    """Runs the tool into a folder of this name; returns the folder."""

    def run(name, *options):
        argv = ["--model_id", model_folder, "--dataset", pairs, "--output", tmp_path / name, "--lr", "1e-3", *options]
        finetune_memorize.main([str(word) for word in argv])
        return tmp_path / name

    return run


def weights(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def gradients(folder):
    """The gradient of a training's only step, as AdamW's first average of it."""
    state = torch.load(folder / "checkpoint" / "optimizer.bin", weights_only=True)["state"]
    return {k: values["exp_avg"] for k, values in state.items()}


def same(a, b, **tolerance):
    return all(torch.allclose(a[k], b[k], **tolerance) if tolerance else torch.equal(a[k], b[k]) for k in a)


# The loss


def batch_of(pipe):
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ids = torch.stack([token_ids(pipe.tokenizer, text) for text in ("the wild owl", "a red fox", "")])
    return {"example": torch.arange(3), "pixels": pixels, "ids": ids, "seed": torch.tensor(SEEDS)}


def loss_of(pipe, mitigations=(), drop_above=None):
    return TrainingLoss(pipe, EncodedPictures(pipe.vae), pipe.unet, pipe.text_encoder, mitigations, drop_above)


def slow_losses(pipe, batch):
    """Loss and magnitude D of every sample, one after another."""
    losses, magnitudes = [], []
    for pixels, ids, generator in zip(batch["pixels"], batch["ids"], generators(), strict=True):
        moments = pipe.vae.encode(pixels[None]).latent_dist
        noise = torch.randn(moments.mean.shape, generator=generator)
        latents = (moments.mean + moments.std * noise) * pipe.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator)
        t = int(torch.randint(1000, (1,), generator=generator))
        alpha = pipe.scheduler.alphas_cumprod[t]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        text, empty = (pipe.text_encoder(i[None])[0] for i in (ids, token_ids(pipe.tokenizer, "")))
        outputs = [pipe.unet(noisy, t, encoder_hidden_states=features).sample for features in (text, empty)]
        is_v = pipe.scheduler.config.prediction_type == "v_prediction"
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents if is_v else noise
        losses.append(((outputs[0] - target) ** 2).mean())
        difference = (outputs[0] - outputs[1]) * (alpha.sqrt() if is_v else 1)
        magnitudes.append(float(noise_diff_norm(difference)))
    return torch.stack(losses), magnitudes


@torch.no_grad()
def test_the_loss_is_that_of_the_noise_or_the_velocity(any_pipe):
    batch = batch_of(any_pipe)
    expected, magnitudes = slow_losses(any_pipe, batch)
    loss, dropped = loss_of(any_pipe)(batch)
    torch.testing.assert_close(loss, expected.mean())
    assert dropped == 0
    threshold = sorted(magnitudes)[1] * 1.001  # between the second and the largest
    loss, dropped = loss_of(any_pipe, drop_above=threshold)(batch)
    torch.testing.assert_close(loss, expected[torch.tensor(magnitudes) <= threshold].mean())
    assert dropped == 1


@torch.no_grad()
def test_a_picture_is_encoded_once_and_drawn_from_anew(pipe, monkeypatch):
    batch, encode, encoded = batch_of(pipe), pipe.vae.encode, []
    monkeypatch.setattr(pipe.vae, "encode", lambda pixels: encoded.append(pixels) or encode(pixels))
    pictures = EncodedPictures(pipe.vae, most=2)
    first, again = pictures.sample(batch, generators()), pictures.sample(batch, generators())
    assert torch.equal(first, again) and len(encoded) == 4  # the third picture twice, there is no room for it
    assert not torch.allclose(pictures.sample(batch, generators()[::-1]), first)
    backward = {name: values.flip(0) for name, values in batch.items()}
    assert torch.equal(pictures.sample(backward, generators()[::-1]), first.flip(0))


# Mitigations of embeddings


def test_noise_on_the_embedding_has_its_scale_and_its_share():
    embeds = torch.zeros(400, 7, 16)
    drawn = [torch.Generator().manual_seed(k) for k in range(400)]
    changed = parse_mitigation("embedding_noise:0.3:0.5").embeddings(embeds, drawn)
    acts = changed.abs().amax((1, 2)) > 0
    assert abs(float(acts.float().mean()) - 0.3) < 0.1
    assert abs(float(changed[acts].std()) - 0.5) < 0.02 and abs(float(changed[acts].mean())) < 0.02


def test_embeddings_are_mixed_within_the_batch():
    embeds, shares = torch.eye(3)[:, None, :], []
    for seed in range(500):
        drawn = [torch.Generator().manual_seed(3 * seed + k) for k in range(3)]
        mixed = parse_mitigation("mixed_embeddings:1:0.4").embeddings(embeds, drawn)[:, 0]
        torch.testing.assert_close(mixed.sum(1), torch.ones(3))
        torch.testing.assert_close(mixed.sum(0), torch.ones(3))  # a permutation: each is somebody's other once
        others = [k for k in range(3) if mixed[k, k] < 1]
        shares += [float(mixed[others[0], others[0]])] if others else []
    assert stats.kstest(shares, stats.beta(0.4, 1).cdf).pvalue > 0.01


def test_a_mitigation_reaches_the_loss(pipe):
    def seen(embeds, drawn, strength):
        return embeds * strength

    record = parse_mitigation("embedding_noise").record
    acting = Acting(type(record)(**{**vars(record), "function": seen}), 1, 0.5)
    batch = batch_of(pipe)
    losses = [loss_of(pipe, some)(batch)[0] for some in ([], [acting])]
    assert losses[0] != losses[1]


# What a training ends with


def test_an_interrupted_training_ends_as_one_that_was_not(finetune, monkeypatch, capsys):
    options = ("--steps", 4, "--batch_size", 2, "--checkpoint_every", 2, "--ema_decay", 0.9, "--lr_scheduler", "cosine")
    options += ("--mitigation", "random_tokens:0.5", "--mitigation", "embedding_noise", "--drop_above", 1)
    whole = finetune("whole", *options)
    told = capsys.readouterr().out.split(" steps, ")[1].split(";")[0]
    step = training_module.Training.step

    def killed(self, *rest):
        if self.progress.steps == 3:
            raise KeyboardInterrupt
        step(self, *rest)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(training_module.Training, "step", killed)
        finetune("cut", *options)
    is_one = same(weights(whole), weights(finetune("cut", *options)))  # a name, as pytest writes out what it compares
    assert is_one
    assert told in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        finetune("cut", *options, "--lr", "1e-4")
    assert refused.value.code == 2 and "was trained with lr 0.001, not 0.0001" in capsys.readouterr().err


def test_accumulated_batches_are_a_large_one(finetune):
    large = gradients(finetune("large", "--steps", 1, "--batch_size", 4))
    options = ("--batch_size", 2, "--gradient_accumulation_steps", 2, "--num_workers", 1)
    parts = gradients(finetune("parts", "--steps", 1, *options))
    sparing = gradients(finetune("sparing", "--steps", 1, "--batch_size", 4, "--gradient_checkpointing"))
    assert max(g.abs().max() for g in large.values()) > 1e-3
    is_one = [same(large, other, atol=1e-6, rtol=1e-3) for other in (parts, sparing)]
    assert is_one == [True, True]


def test_the_average_is_that_of_the_steps(finetune):
    first, second = (weights(finetune(f"plain{n}", "--steps", n)) for n in (1, 2))
    found = weights(finetune("average", "--steps", 2, "--ema_decay", 0.9999))
    decay = 2 / 11  # of the second step: (1 + n) / (10 + n) before it reaches what is asked for
    is_one = same(found, {k: decay * first[k] + (1 - decay) * second[k] for k in first}, atol=1e-6)
    assert is_one


def test_a_lora_is_saved_as_our_scripts_load_it(finetune, model_folder, monkeypatch):
    kept = []
    monkeypatch.setattr(
        finetune_memorize, "Training", lambda *given: kept.append(training_module.Training(*given)) or kept[0]
    )
    options = ("--steps", 2, "--lora_rank", 2, "--lora_alpha", 6, "--save_pipeline_every", 1)
    folder = finetune("lora", *options)
    tuned, loaded = kept[0].pipe, load_pipeline(model_folder, lora=[str(folder)])
    base, latents = load_pipeline(model_folder), tuned.initial_latents([0])
    text = base.encode(["the wild owl number 1"])
    a, b, plain = (pipe.predict_noise(latents, 500, text).outputs[1].detach() for pipe in (tuned, loaded, base))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert (a - plain).abs().max() > 1e-3
    assert load_pipeline(model_folder, lora=[str(folder / "pipelines" / "000001")])
    assert base.unet.state_dict().keys() == loaded.unet.state_dict().keys()


def test_a_text_encoder_that_peft_cannot_tune_is_one_line():
    class Part(torch.nn.Module):
        def add_adapter(self, config):
            raise ValueError("The version of PEFT is too old")

    with pytest.raises(InputError, match="cannot tune the text_encoder .*too old"):
        add_lora(Part(), "text_encoder", 2, 2)


def test_a_whole_model_is_saved_with_the_text_encoder_and_on_the_way(finetune, model_folder, monkeypatch):
    monkeypatch.setattr(validation, "NUM_STEPS", 2)
    options = ("--steps", 2, "--train_text_encoder", "--unet_from_scratch", "--validate_every", 2)
    folder = finetune("both", *options, "--save_pipeline_every", 1, "--validation_prompts", "owl", "fox")
    before, after = load_pipeline(model_folder), StableDiffusionPipeline.from_pretrained(folder)
    for name in ("text_encoder", "unet"):
        a, b = (getattr(pipe, name).state_dict() for pipe in (before, after))
        is_one = same(a, b)
        assert not is_one
    is_one = same(before.vae.state_dict(), after.vae.state_dict())
    assert is_one
    assert isinstance(load_pipeline(folder / "pipelines" / "000001"), LocalStableDiffusionPipeline)
    with Image.open(folder / "validation" / "000002.png") as grid:
        assert grid.size == (4 * 32, 2 * 32)


def test_a_second_training_is_kept_out_of_a_folder(finetune, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    lock = FolderLock(tmp_path / "one", "--output")
    try:
        with pytest.raises(SystemExit):
            finetune("one", "--steps", "1")
    finally:
        lock.release()
    assert "choose another --output" in capsys.readouterr().err and not (tmp_path / "one" / "unet").exists()
