"""One noise for all prompts: the same numbers as of own noise that is the same, at half the evaluations."""

import json

import pytest
import torch

import detect_mem
from helpers.scale_runs import OPTIONS

EARLY = ["--early_exit", "1", "--run_version", "baseline"]


@pytest.fixture
def call(tmp_path, model_folder, loaded):
    """Run detect_mem.py in this process on a loaded model; gives its rows, and the evaluations it took."""

    def call(name, *more):
        before = loaded.num_unet_evals
        common = ["--output_dir", str(tmp_path), "--run_name", name, "--model_id", str(model_folder)]
        detect_mem.main([*OPTIONS["detect_mem"], *common, *more], loaded)
        (path,) = (tmp_path / "det_outputs").glob(f"{name}_*.jsonl")
        return [json.loads(line) for line in path.open()], loaded.num_unet_evals - before

    return call


def without_seeds(rows):
    return [{k: v for k, v in row.items() if k != "seeds"} for row in rows]


def test_shared_noise_gives_the_numbers_of_the_same_noise_drawn_for_each_prompt(call, loaded, monkeypatch):
    images = ["--num_images_per_prompt", "2"]
    shared, cost = call("shared", "--seed_mode", "shared", *images)
    assert {tuple(row["seeds"]) for row in shared} == {(0, 1)}
    drawn = loaded.initial_latents
    with monkeypatch.context() as patch:  # every prompt's own noise is that of the first prompt
        patch.setattr(loaded, "initial_latents", lambda seeds, *rest: drawn([s % 1000 for s in seeds], *rest))
        own, own_cost = call("own", *images)
    assert cost == own_cost
    for a, b in zip(shared, own, strict=True):
        assert a["text_noise_norm"] == b["text_noise_norm"] and a["uncond_noise_norm"] == b["uncond_noise_norm"]
    assert shared[0]["text_noise_norm"] != shared[1]["text_noise_norm"]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_an_early_exit_at_shared_noise_takes_one_evaluation_an_image_and_one_for_each_noise(call, kind, loaded):
    loaded.scheduler.register_to_config(prediction_type=kind)
    try:
        options = ["--seed_mode", "shared", "--num_images_per_prompt", "2", "--batch_size", "3"]
        whole, _ = call("whole", *options)
        early, cost = call("early", *options, *EARLY)
        assert call("early", *options, *EARLY) == (early, 0)  # what is finished is not evaluated again
    finally:
        loaded.scheduler.register_to_config(prediction_type="epsilon")
    assert cost == 2 + 3 * 2 and {row["unet_evals_per_image"] for row in early} == {1}
    for key in ("text_noise_norm", "uncond_noise_norm"):
        first = torch.tensor([row[key] for row in whole])[..., :1]
        torch.testing.assert_close(torch.tensor([row[key] for row in early]), first, rtol=1e-4, atol=1e-6)


def test_where_the_first_step_attention_is_read_it_is_evaluated_whole(call):
    scores = ["--scores", "attention_entropy", "--num_inference_steps", "2"]
    rows, cost = call("read", "--seed_mode", "shared", *scores)
    assert cost == 3 * 2 * 2 and "attention_entropy" in rows[0]
