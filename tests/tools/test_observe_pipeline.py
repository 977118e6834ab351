"""Other pipelines by the command line: rows that evaluation reads, runs that go on, refusals in one line."""

import json

import pytest

import eval_mem
from helpers import other_pipelines
from memorization import read_run
from tools import observe_pipeline


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl")
    other_pipelines.make_sdxl().save_pretrained(folder)
    return folder


@pytest.fixture
def observe(sdxl_folder, tmp_path):
    """The command on a few prompts; gives the path of its rows."""

    def call(name, *options, memorized=True):
        prompts = tmp_path / f"{name}.jsonl"
        rows = [{"caption": f"the wild owl {k}", "index": k, "is_memorized": memorized} for k in range(6)]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        argv = ["--model_id", sdxl_folder, "--dataset", prompts, "--run_name", name, "--output_dir", tmp_path]
        argv += ["--num_inference_steps", 2, "--num_images_per_prompt", 2, *options]
        observe_pipeline.main([str(word) for word in argv])
        return tmp_path / "det_outputs" / f"{name}_observed.jsonl"

    return call


def test_rows_are_read_by_evaluation_and_a_second_call_makes_nothing(observe, tmp_path, capsys):
    mem, other = observe("mem", "--early_exit", 1), observe("other", "--early_exit", 1, memorized=False)
    before = mem.read_bytes()
    assert observe("mem", "--early_exit", 1).read_bytes() == before
    eval_mem.main(["detection", "--mem", str(mem), "--nonmem", str(other), "--output", str(tmp_path / "e")])
    assert "| D " in (tmp_path / "e" / "detection.md").read_text()
    settings = read_run(mem).settings
    assert settings["prediction"] == "epsilon" and settings["pipeline"] == "StableDiffusionXLPipeline"
    assert {"model_id", "dataset"} == settings["content"].keys()


def test_whole_generations_leave_images_and_another_guidance_is_another_run(observe, tmp_path, capsys):
    rows = observe("whole")
    run = read_run(rows)
    assert run.images(run.rows[0]).shape == (2, 8, 8, 3) and len(run.rows[0]["text_noise_norm"][0]) == 2
    assert run.rows[0]["unet_evals_per_image"] == 4
    with pytest.raises(SystemExit) as stopped:
        observe("whole", "--guidance_scale", 3)
    assert stopped.value.code == 2 and "guidance_scale" in capsys.readouterr().err


def test_what_is_no_pipeline_or_has_no_guidance_is_refused_in_one_line(observe, tmp_path, capsys):
    for options, message in (
        (("--model_id", tmp_path / "nowhere"), "cannot load"),
        (("--dataset", tmp_path / "nowhere.jsonl"), "nowhere.jsonl"),
        (("--guidance_scale", 1), "makes 1 predictions for an image at a step"),
    ):
        with pytest.raises(SystemExit) as stopped:
            observe("new", *options)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert stopped.value.code == 2 and error.startswith("error: ") and message in error
        assert not list(tmp_path.glob("det_outputs/new*"))
