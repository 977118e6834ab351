"""The bundled model against its ground truth, on seeds that nothing was tuned on.

One detection run over all bundled prompts, one image of 25 steps each. The bounds are the documented numbers, with the
margin that 16 images of a kind want.
"""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import detect_mem
from memorization.bundled import GROUND_TRUTH, MODEL
from memorization.data.pictures import read_image, read_mask
from memorization.data.prompts import load_prompts
from memorization.evaluation.curves import rank_auc
from memorization.models.stable_diffusion import load_pipeline
from memorization.similarity.pixels import similarity_to_references
from planted.making.model_measures import COPY_RMSE

COPY = 1 - COPY_RMSE  # similarity above which a region counts as copied


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder and rows of one detection run at an unused seed."""
    folder = tmp_path_factory.mktemp("planted")
    detect_mem.main(
        [
            "--gen_seed",
            "300",
            "--num_images_per_prompt",
            "1",
            "--num_inference_steps",
            "25",
            "--output_dir",
            str(folder),
        ]
    )
    lines = (folder / "det_outputs" / "test_ours.jsonl").read_text().splitlines()
    return folder, [json.loads(line) for line in lines]


def pick(rows, kind):
    """Rows of one planted kind, or the unseen ones."""
    return [r for r in rows if (r["kind"] == kind if kind else not r["is_memorized"])]


def image_of(folder, row):
    return np.asarray(Image.open(folder / "images_data" / "test_ours" / f"{row['index']}_{row['seeds'][0]}.png"))


def first_step(rows):
    return [r["text_noise_norm"][0][0] for r in rows]


def test_the_first_step_score_finds_what_is_memorized(run):
    _, rows = run
    assert rank_auc(first_step(pick(rows, "verbatim")), first_step(pick(rows, None))) >= 0.99


def test_end_token_attention_tells_memorized_images(run):
    """Clearly on verbatim prompts; on templates, where it is bright in a part of the image only, less so."""
    _, rows = run
    attention = {k: [r["end_token_attention"][0] for r in pick(rows, k)] for k in ("verbatim", "template", None)}
    assert rank_auc(attention["verbatim"], attention[None]) >= 0.95
    assert rank_auc(attention["template"], attention[None]) >= 0.6


def test_planted_prompts_give_copies_and_unseen_ones_do_not(run):
    folder, rows = run
    records = load_prompts(str(GROUND_TRUTH))
    by_index = {r["index"]: r for r in rows}
    for kind, share in (("verbatim", 0.85), ("template", 0.6)):  # 100 % and 88 % of 32 images each in the report
        some = [r for r in records if r.kind == kind]
        similarity = [similarity_to_references(image_of(folder, by_index[r.index])[None], r)[0] for r in some]
        assert np.mean(np.array(similarity) > COPY) >= share
    unseen = np.stack([image_of(folder, r) for r in pick(rows, None)])
    copies = np.any([np.array(similarity_to_references(unseen, r)) > COPY for r in records], 0)
    assert copies.mean() < 0.01


def test_masks_are_brighter_on_copied_than_on_free_regions(run):
    folder, rows = run
    records = {r.index: r for r in load_prompts(str(GROUND_TRUTH))}
    with np.load(folder / "attn_data" / "test_ours_attention_scores.npz") as file:
        masks = dict(zip(file["index"].tolist(), file["attention_scores"].astype(float), strict=True))
    aurocs = []
    for row in pick(rows, "template"):
        truth = Image.fromarray(read_mask(records[row["index"]].mask_path))
        inside = np.asarray(truth.resize(masks[row["index"]].shape[::-1], Image.NEAREST))
        aurocs.append(rank_auc(masks[row["index"]][inside], masks[row["index"]][~inside]))
    assert np.mean(aurocs) >= 0.7  # 0.83 in the report


def test_stock_diffusers_loads_the_bundled_model_and_makes_the_same_image():
    stock = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    ours, prompt = load_pipeline(str(MODEL)), "the wild owl poster"
    text, negative = ours.encode([prompt])
    latents = ours.generate(ours.initial_latents([8]), (negative, text), num_inference_steps=10)
    generator = torch.Generator().manual_seed(8)
    theirs = stock(prompt, num_inference_steps=10, generator=generator, output_type="latent").images
    assert torch.equal(latents, theirs)


def test_the_bundled_model_is_small_and_in_half_precision():
    weights = list(MODEL.rglob("*.safetensors"))
    assert len(weights) == 3 and sum(p.stat().st_size for p in MODEL.rglob("*") if p.is_file()) < 25e6
    assert load_pipeline(str(MODEL)).tokenizer.model_max_length == 77
    assert read_image(GROUND_TRUTH / "gt_images" / "0" / "0.png").shape == (128, 128, 3)
