"""Work shared by batches and processes gives the rows of one by one; a kill loses nothing; nothing piles up."""

import contextlib
import errno
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import detect_mem
import inference_mem
from attn_utils import cross_attention_layers, down_cross_layers
from helpers.pipelines import make_pipeline
from helpers.scale_runs import OPTIONS, ROWS, files, finished, one_thread, run
from memorization.errors import InputError
from memorization.evaluation.detection import summary
from memorization.files import json_lines
from memorization.files.json_lines import ResultsFile
from memorization.files.whole import FolderLock
from memorization.observation import Recorded, observe
from memorization.runs.workers import BackgroundWriter, Processes
from optim_utils import PromptReanchoring

SCRIPTS = {"detect_mem": detect_mem.main, "inference_mem": inference_mem.main}


class Killed(BaseException):
    """What a kill looks like to the code: it may be raised anywhere and nothing can be written after it."""


class Fuse:
    """Ends the run at the nth change to a file; a row that is being written then is torn."""

    def __init__(self, monkeypatch, blows_at):
        self.left = blows_at
        for owner, name in ((os, "replace"), (os, "rename"), (Path, "unlink"), (json_lines, "write_all")):
            monkeypatch.setattr(owner, name, self.guard(name, getattr(owner, name)))

    def guard(self, name, function):
        def guarded(*args, **kwargs):
            if self.left == 0:
                raise Killed
            self.left -= 1
            if self.left == 0:
                if name == "write_all":
                    function(args[0], args[1][: len(args[1]) * 2 // 3])
                raise Killed
            return function(*args, **kwargs)

        return guarded


@pytest.fixture
def call(tmp_path, model_folder, loaded):
    """Run a script in this process on a loaded model; gives the folder, and the evaluations it took."""

    def call(script, folder, *more):
        before = loaded.num_unet_evals
        common = ["--output_dir", str(tmp_path / folder), "--model_id", str(model_folder)]
        SCRIPTS[script]([*OPTIONS[script], *common, *more], loaded)
        return tmp_path / folder, loaded.num_unet_evals - before

    return call


def json_rows(folder, script):
    return [json.loads(line) for line in (folder / "det_outputs" / ROWS[script]).read_text().splitlines()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_that_was_killed_at_any_write_ends_in_the_same_files(call, script, tmp_path, monkeypatch):
    reference, whole_cost = call(script, "whole")
    wanted, groups = files(reference), [{0, 1}, {2}]
    assert [row["index"] for row in json_rows(reference, script)] == [0, 1, 2]
    # At every change to a file, or every second one in the longer run of the other script.
    for blows_at in range(1, 200, 1 if script == "detect_mem" else 2):
        folder = tmp_path / f"killed_{blows_at}"
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            Fuse(patch, blows_at)
            call(script, folder)
            break  # the fuse is longer than the run
        done = finished(script, folder) if (folder / "det_outputs").exists() else set()
        _, cost = call(script, folder)
        assert files(folder) == wanted, blows_at
        unfinished = [g for g in groups if not g <= done]
        assert cost <= whole_cost * sum(len(g) for g in unfinished) / 3 + 1e-6, blows_at  # no finished group again
    assert blows_at > 12


METHODS = {
    "detect": ("detect_mem", []),
    "prss_be": ("inference_mem", []),
    "pe": ("inference_mem", ["--run_version", "baseline", "--optim_target_loss", "0.6"]),
    "pe_pr": ("inference_mem", ["--optim_target_loss", "0.01", "--pr_mask"]),
}


@pytest.mark.parametrize(("script", "more"), METHODS.values(), ids=METHODS)
def test_batches_of_several_prompts_give_the_rows_of_one_by_one(call, script, more):
    """Up to the rounding of matrix products of another size: 1e-3 of a norm, 2 of 255 in a pixel."""
    mixed, cost = call(script, "mixed", "--batch_size", "16", "--num_images_per_prompt", "3", *more)
    alone, cost_alone = call(script, "alone", "--batch_size", "1", "--num_images_per_prompt", "3", *more)
    assert cost == cost_alone
    (name,) = (p.name for p in (mixed / "det_outputs").glob("*.jsonl"))
    for a, b in zip(*(map(json.loads, (f / "det_outputs" / name).open()) for f in (mixed, alone)), strict=True):
        for key, value in b.items():
            if isinstance(value, float) or (isinstance(value, list) and isinstance(np.ravel(value)[0], float)):
                assert np.allclose(a[key], value, rtol=1e-3, atol=1e-3), key
            else:
                assert a[key] == value
    arrays = [np.load(next((f / "images_data").glob("*_*_generated_images.npz")))["images"] for f in (mixed, alone)]
    assert np.abs(arrays[0].astype(int) - arrays[1]).max() <= 2


def test_an_image_is_the_same_to_the_bit_whoever_shares_its_batch(pipe):
    prompts, layers = ["the golden owl mug", "a large red heart"], down_cross_layers(pipe.unet)

    def generate(batch):
        text, negative = pipe.encode([prompts[p] for p, _ in batch])
        tokens = torch.tensor([pipe.end_token(prompts[p]) for p, _ in batch])
        latents = pipe.initial_latents([seed for _, seed in batch])
        return observe(pipe, latents, (negative, text), tokens, Recorded(layers), num_inference_steps=3)

    one, other = generate([(0, 7), (0, 8), (0, 9)]), generate([(0, 7), (1, 1), (1, 2)])
    assert torch.equal(one.latents[0], other.latents[0]) and torch.equal(one.mask[0], other.mask[0])
    assert torch.equal(one.diff_maps[0], other.diff_maps[0])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_nothing_in_the_loop_reads_a_value_back_from_the_device(kind):
    """On the meta device there are no values, so that reading one raises."""
    pipe = make_pipeline(kind)
    text, negative = (e.to("meta") for e in pipe.encode(["a", "b"]))
    pipe.unet.to("meta")
    latents, tokens = torch.empty(2, 4, 16, 16, device="meta"), torch.tensor([1, 2], device="meta")
    layers = cross_attention_layers(pipe.unet)
    observed = observe(pipe, latents, (negative, text), tokens, Recorded(layers[:2], layers), num_inference_steps=3)
    guidance = PromptReanchoring(7.5, 3, 5, observed.mask)
    assert pipe.generate(latents, (negative, text, text), num_inference_steps=3, guidance=guidance).is_meta


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_processes_leave_the_files_of_one(script, tmp_path, model_folder):
    options = [
        *OPTIONS[script],
        "--device",
        "cpu",
        "--output_dir",
        str(tmp_path / "1"),
        "--model_id",
        str(model_folder),
    ]
    with one_thread():
        SCRIPTS[script](options)  # loaded from its files, as theirs
    told = run(script, 2, tmp_path / "2", model_folder)
    assert told.count("UNet evaluations" if script == "inference_mem" else "higher = memorized") == 1
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_shards_are_merged_in_order_each_row_once_by_the_next_start(call, tmp_path):
    folder, _ = call("detect_mem", "whole")
    wanted, path = files(folder), folder / "det_outputs" / ROWS["detect_mem"]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    Path(f"{path}.shard0").write_bytes(lines[2] + lines[0])
    Path(f"{path}.shard3").write_bytes(lines[0] + lines[1][:20])
    _, cost = call("detect_mem", "whole")
    assert cost == 2 * 2 * 2  # the group of prompts 0 and 1, whose second row is torn
    assert files(folder) == wanted


def test_an_early_exit_gives_the_first_steps_of_the_whole_run(call, tmp_path):
    folder, _ = call("detect_mem", "whole", "--num_inference_steps", "4")
    masks = ["--attn_scores", str(folder / "attn_data" / "test_ours_attention_scores.npz")]
    early, cost = call("detect_mem", "early", "--num_inference_steps", "4", "--early_exit", "2", *masks)
    assert cost == 3 * 2 * 2 and not list(early.rglob("*.png")) and not list(early.rglob("*.npz"))
    for a, b in zip(json_rows(folder, "detect_mem"), json_rows(early, "detect_mem"), strict=True):
        assert b["text_noise_norm"][0] == a["text_noise_norm"][0][:2] and b["unet_evals_per_image"] == 4
        assert np.allclose(b["text_noise_norm_masked"][0], a["text_noise_norm_masked"][0][:2], rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--early_exit", "1"], "ends before there is a bright-ending mask"),
        (["--early_exit", "3", "--run_version", "baseline"], "beyond --num_inference_steps 2"),
        (["--early_exit", "1", "--run_version", "baseline", "--store_maps"], "need the last step"),
    ],
)
def test_an_early_exit_that_means_nothing_is_refused(call, capsys, options, message):
    with pytest.raises(SystemExit):
        call("detect_mem", "x", *options)
    assert message in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(call, capsys, monkeypatch, tmp_path):
    write_all, calls = json_lines.write_all, []

    def full(file, data):
        calls.append(1)
        write_all(file, data[: len(data) // 2] if len(calls) == 2 else data)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "rows")

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(json_lines, "write_all", full)
        call("detect_mem", "x")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "error: cannot write rows: No space left" in error and "Traceback" not in error
    assert [row["index"] for row in json_rows(tmp_path / "x", "detect_mem")] == [0, 1]
    call("detect_mem", "x")
    assert files(tmp_path / "x") == files(call("detect_mem", "whole")[0])


def test_a_second_run_of_the_same_name_is_refused_while_the_first_goes_on(call, capsys, tmp_path):
    folder, _ = call("detect_mem", "x")
    lock = FolderLock(folder / "images_data" / "test_ours")
    with pytest.raises(SystemExit):
        call("detect_mem", "x")
    assert "another run is writing to" in capsys.readouterr().err
    lock.release()
    call("detect_mem", "x")


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    """Rows of 20 kB: 400 of them are merged, read and summarised in the memory of a few."""
    row = {"prompt": "p", "kind": None, "is_memorized": None, "text_noise_norm": [[1.5] * 50] * 80}
    for count in (20, 400):
        file = ResultsFile(tmp_path / f"{count}.jsonl", {}, shard=0)
        for start in range(0, count, 20):
            file.add(*(row | {"index": k} for k in range(start, start + 20)))
        del file
    peaks = []
    for count in (20, 400):
        tracemalloc.start()
        file = ResultsFile(tmp_path / f"{count}.jsonl", {})
        file.merge()
        summary(file.row(k) for k in range(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    kept = 400 * (80 * 8 * 3 + 600)  # three numbers an image, and where each row is
    assert peaks[1] < peaks[0] + 1.5 * kept < 0.25 * 400 * 20_000


def test_the_writer_keeps_order_and_its_errors_reach_the_caller():
    writer, seen = BackgroundWriter("cpu"), []
    for k in range(5):
        writer.submit(seen.append, k)
    writer.wait()
    assert seen == list(range(5))
    writer.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.submit(seen.append, 9)
    writer.close()
    assert seen == list(range(5))


def test_one_numbered_device_cannot_be_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--device cuda:1 is one device"):
        Processes("cuda:1")


def test_channels_last_changes_rounding_alone(call, model_folder):
    from memorization.models.stable_diffusion import load_pipeline

    results = []
    for channels_last in (False, True):
        pipe = load_pipeline(str(model_folder), channels_last=channels_last)
        text, negative = pipe.encode(["the golden owl mug"])
        results.append(pipe.generate(pipe.initial_latents([0]), (negative, text), num_inference_steps=3))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_unet_gives_the_same_up_to_rounding(model_folder):
    from memorization.models.stable_diffusion import load_pipeline

    results = []
    for compile in (False, True):
        pipe = load_pipeline(str(model_folder), compile=compile)
        text, negative = pipe.encode(["the golden owl mug"])
        tokens = torch.tensor([pipe.end_token("the golden owl mug")])
        layers = down_cross_layers(pipe.unet)
        results.append(
            observe(pipe, pipe.initial_latents([0]), (negative, text), tokens, Recorded(layers), num_inference_steps=3)
        )
    torch.testing.assert_close(results[0].latents, results[1].latents, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(results[0].mask, results[1].mask, rtol=1e-3, atol=1e-5)
