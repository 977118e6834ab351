"""One noise for all prompts: the numbers of the same noise drawn for each, at half the evaluations, for any number."""

import json
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

import detect_mem
from helpers.scale_runs import OPTIONS, files
from memorization.data.streams import PromptStream, open_stream
from memorization.detectors.base import DETECTORS
from memorization.errors import InputError
from memorization.evaluation.controls import controls_of_run
from memorization.evaluation.decisions import Decisions
from memorization.evaluation.detection import evaluate_detection
from memorization.files.columns import ColumnParts
from memorization.finished_runs import read_run
from memorization.models.encoding import count_truncated, encode_batch
from memorization.observation import make_inputs, observe
from memorization.runs import screening
from memorization.runs.workers import Processes

EARLY = ["--early_exit", "1", "--run_version", "baseline"]
SCREEN = ["--screen", "--seed_mode", "shared", "--num_images_per_prompt", "2", "--batch_size", "3", "--shard_size", "4"]


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


@pytest.fixture
def screen(tmp_path, model_folder, loaded):
    """Screen eleven captions in parts of four; gives the folder, and the evaluations it took."""
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps({"caption": f"a red cat, number {k}"}) + "\n" for k in range(11)))

    def screen(folder, *more):
        before = loaded.num_unet_evals
        common = ["--output_dir", str(tmp_path / folder), "--model_id", str(model_folder)]
        detect_mem.main(["--dataset", str(captions), *common, *SCREEN, *more], loaded)
        return tmp_path / folder, loaded.num_unet_evals - before

    return screen


# Shared noise


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


def test_where_attention_of_the_first_step_is_read_it_is_evaluated_whole(pipe):
    inputs = make_inputs(pipe, ["a red cat"], [[0]])
    reader = replace(DETECTORS["attention_entropy"], attention_steps=lambda num_steps: [0], function=lambda trace: {})
    for detectors, cost in (((), 1), ((reader,), 2)):
        before = pipe.num_unet_evals
        observe(
            pipe, inputs.latents, inputs.embeds, inputs.tokens, detectors=detectors, first_uncond=inputs.latents,
            stop_after=1,
        )  # fmt: skip
        assert pipe.num_unet_evals == before + cost


# The screen


def test_a_screen_gives_the_scores_of_an_early_exit_and_eval_reads_them_alike(screen, call, tmp_path):
    folder, cost = screen("whole")
    assert cost == 2 + 11 * 2
    captions = [
        "--dataset",
        str(tmp_path / "captions.jsonl"),
        "--end",
        "11",
        "--num_inference_steps",
        "50",
        *SCREEN[1:-2],
    ]
    rows, _ = call("rows", *captions, *EARLY)
    found, wanted = (
        read_run(folder / "det_outputs" / "test_screen.parquet"),
        read_run(tmp_path / "det_outputs" / "rows_baseline.jsonl"),
    )
    for a, b in zip(found.rows, wanted.rows, strict=True):
        assert (a["index"], a["prompt"], a["seeds"]) == (b["index"], b["prompt"], b["seeds"])
        assert np.allclose(a["text_noise_norm"], b["text_noise_norm"], rtol=1e-4)
    controls = controls_of_run(wanted, "text_noise_norm", 1)
    Decisions(controls).refuse_other_run(found.settings, "controls")
    lines = [Decisions(controls).of_rows(run.rows) for run in (found, wanted)]
    assert [line["index"] for line in lines[0]] == list(range(11)) and [line["p"] for line in lines[1]]
    result, same = (evaluate_detection([run], [wanted]) for run in (found, wanted))
    assert [r["score"] for r in result] == ["D", "D"] == [r["score"] for r in same]
    assert result[0]["auc"]["value"] == pytest.approx(0.5, abs=0.02)


class Killed(BaseException):
    """What a kill looks like to the code."""


@pytest.mark.parametrize("before", [True, False])
def test_a_screen_that_was_killed_at_any_write_ends_in_the_same_bytes(screen, tmp_path, monkeypatch, before):
    whole, _ = screen("whole")
    wanted, rename = files(whole), os.replace
    assert len(wanted) == 5  # three parts, all of them, and the settings
    for blows_at in range(5):
        calls = []

        def killing(source, target, calls=calls, blows_at=blows_at):
            calls.append(target)
            if len(calls) > blows_at and before:
                raise Killed
            rename(source, target)
            if len(calls) > blows_at:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "replace", killing)
            screen(f"killed_{blows_at}")
        finished = len(list((tmp_path / f"killed_{blows_at}").rglob("*-*.parquet")))
        _, cost = screen(f"killed_{blows_at}")
        assert cost == (0 if finished == 3 else 2 + 2 * (11 - 4 * finished))
        assert files(tmp_path / f"killed_{blows_at}") == wanted, blows_at


def test_two_shares_leave_the_files_of_one_and_a_later_end_goes_on(screen, monkeypatch):
    class Share(Processes):
        rank_now = 1

        def __init__(self, device):
            super().__init__(device)
            self.rank, self.count = self.rank_now, 2

    whole, cost = screen("whole")
    with monkeypatch.context() as patch:
        patch.setattr(screening, "Processes", Share)
        Share.rank_now = 0
        with pytest.raises(SystemExit):  # begins the files, and lacks what is another's
            screen("shared")
        Share.rank_now = 1
        _, of_second = screen("shared")
        Share.rank_now = 0
        screen("shared")
    assert of_second == 2 + 4 * 2
    assert files(screen("shared")[0]) == files(whole)
    screen("longer", "--end", "6")
    folder, cost_of_rest = screen("longer")
    assert cost_of_rest == 2 + 2 * 7 and files(folder) == files(whole)


def test_a_prompt_that_gives_nan_has_no_row_and_stops_no_other(screen, monkeypatch, capsys):
    magnitude, calls = screening.text_magnitude, []

    def broken(*args):
        calls.append(args)
        values = magnitude(*args)
        return values if len(calls) != 2 else torch.where(torch.arange(len(values)) == 1, torch.nan, values)

    monkeypatch.setattr(screening, "text_magnitude", broken)
    with pytest.raises(SystemExit) as stop:
        screen("broken")
    told = capsys.readouterr()
    assert stop.value.code == 2 and "D of 1 of 4 prompts is NaN or infinite, the first is prompt 1" in told.err
    assert "10 prompts of 2 images each" in told.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed_mode", "per_image"], "add --seed_mode shared"),
        (["--scores", "all"], "leave out --scores"),
        (["--controls", "x.jsonl"], "leave out --controls"),
        (["--start", "4", "--end", "4"], "must be smaller than --end"),
        (["--start", "12"], "has no prompts from --start 12 on: it has 11"),
        (["--dataset", "random"], "has no end"),
        (["--dataset", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["--prompt_key", "words"], "captions.jsonl, line 1: no text under the key words"),
        (["--shard_size", "0"], "is not at least 1"),
    ],
)
def test_what_cannot_be_screened_is_told_in_one_line(screen, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        screen("bad", *options)
    assert stop.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_other_settings_and_files_that_are_no_screen_are_refused(screen, capsys):
    folder, _ = screen("whole")
    for more, message in ((["--gen_seed", "1"], "gen_seed 0 -> 1"), (["--shard_size", "5"], "shard_size 4 -> 5")):
        with pytest.raises(SystemExit):
            screen("whole", *more)
        assert message in capsys.readouterr().err
    result = folder / "det_outputs" / "test_screen.parquet"
    result.write_bytes(result.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_run(result)


# Encoding and streams


def test_prompts_encoded_together_have_the_features_that_they_have_alone(pipe):
    words = ["a red cat", "", "a much longer caption of a small dog on a wide green hill", "a cat " * 60]
    together = encode_batch(pipe, words)
    assert together.shape == (4, 77, 16)
    torch.testing.assert_close(together, pipe.encode(words)[0], rtol=1e-4, atol=1e-5)
    other = encode_batch(pipe, [words[0], *["a dog"] * 3])  # neighbours of another length
    assert torch.equal(together[0], other[0])
    assert torch.equal(encode_batch(pipe, words[2:3]), pipe.encode(words[2:3])[0])
    assert count_truncated(pipe, words) == sum(bool(pipe.truncated_text(text)) for text in words) == 1


def write_dataset(folder, kind, count=10):
    import tarfile
    from io import BytesIO

    import pandas
    from PIL import Image

    rows = [{"caption": f'caption "{k}", of a cat', "index": 100 + k} for k in range(count)]
    path = folder / f"captions.{kind}"
    if kind == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n\n" for row in rows))
    elif kind == "csv":
        pandas.DataFrame(rows).to_csv(path, index=False)
    elif kind == "parquet":
        pandas.DataFrame(rows).to_parquet(path, row_group_size=3)
    elif kind == "pairs":
        path.mkdir()
        for row in rows:
            (path / f"{row['index']}.txt").write_text(row["caption"])
            Image.new("RGB", (2, 2)).save(path / f"{row['index']}.png")
    elif kind == "tar":
        picture = BytesIO()
        Image.new("RGB", (2, 2)).save(picture, "PNG")
        with tarfile.open(path, "w") as tar:
            for row in rows:
                for suffix, data in (("png", picture.getvalue()), ("txt", row["caption"].encode())):
                    member = tarfile.TarInfo(f"{row['index']}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, BytesIO(data))
    return str(path), [(k if kind == "tar" else 100 + k, row["caption"]) for k, row in enumerate(rows)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "pairs", "tar"])
def test_a_stream_gives_each_prompt_once_and_decodes_nothing_that_is_skipped(kind, tmp_path, monkeypatch):
    dataset, wanted = write_dataset(tmp_path, kind)
    decoded, prompt = [], PromptStream.prompt
    monkeypatch.setattr(PromptStream, "prompt", lambda *args: decoded.append(args[1]) or prompt(*args))
    stream = open_stream(dataset)
    assert stream.take(4) + stream.take(100) == wanted and stream.take(1) == [] and stream.position == 10
    decoded.clear()
    stream = open_stream(dataset)
    assert stream.take(1) == wanted[:1]
    assert stream.skip(6) == 6 and stream.take(2) == wanted[7:9] and stream.skip(5) == 1
    assert decoded == [0, 7, 8]


def test_row_groups_that_are_skipped_are_not_read(tmp_path):
    dataset, wanted = write_dataset(tmp_path, "parquet")
    stream, read = open_stream(dataset), []
    rows_of = stream.rows_of
    stream.rows_of = lambda group: read.append(group) or rows_of(group)
    assert stream.skip(7) == 7 and stream.take(1) == wanted[7:8] and read == [2]


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path):
    peaks = []
    for count in (500, 20_000):
        path = tmp_path / f"{count}.jsonl"
        path.write_text(f'{{"caption": "{"a cat " * 20}"}}\n' * count)
        stream = open_stream(str(path))
        tracemalloc.start()
        stream.skip(count - 100)
        assert len(stream.take(200)) == 100
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] < 20_000 * 100


def test_parts_become_one_file_in_row_groups_of_bounded_size(tmp_path, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr("memorization.files.columns.GROUP_ROWS", 5)
    parts = ColumnParts(tmp_path / "parts", 1)
    for first in (6, 0, 3):
        prompts = [(k, f"p{k}") for k in range(first, first + 3)]
        parts.write((first, first + 3), prompts, np.arange(first, first + 3, dtype=np.float32)[:, None])
    parts.write((0, 2), [(0, "p0")], np.zeros((1, 1), np.float32))  # of a run that ended earlier
    parts.merge(tmp_path / "all.parquet", [(0, 3), (3, 6), (6, 9)])
    file = parquet.ParquetFile(tmp_path / "all.parquet")
    assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [6, 3]
    assert file.read()["index"].to_pylist() == list(range(9)) and (0, 2) not in parts.finished()


def test_memory_of_the_final_file_does_not_grow_with_its_rows(tmp_path, monkeypatch):
    import pyarrow

    monkeypatch.setattr("memorization.files.columns.GROUP_ROWS", 400)
    peaks = []
    for count in (20, 200):
        parts, before = ColumnParts(tmp_path / f"{count}", 1), pyarrow.total_allocated_bytes()
        covered = [(100 * k, 100 * k + 100) for k in range(count)]
        for part in covered:
            parts.write(part, [(k, f"{k}, " * 100) for k in range(*part)], np.zeros((100, 1), np.float32))
        tables = parts.gathered(covered)
        peaks.append(max(pyarrow.total_allocated_bytes() - before for _ in tables))
    assert 0 < peaks[1] < 1.5 * peaks[0]  # of ten times as many rows


def test_links_without_a_caption_have_no_row_and_are_counted(screen, tmp_path, capsys):
    path = tmp_path / "links.jsonl"
    path.write_text(
        "".join(json.dumps({"URL": f"http://{k}", "TEXT": "a cat" if k % 3 else None}) + "\n" for k in range(7))
    )
    folder, _ = screen("links", "--dataset", str(path))
    assert "3 places of" in capsys.readouterr().err
    assert [row["index"] for row in read_run(folder / "det_outputs" / "test_screen.parquet").rows] == [1, 2, 4, 5]


def test_a_streamed_screen_is_that_of_its_file(screen, tmp_path):
    datasets = pytest.importorskip("datasets")
    captions = [json.loads(line)["caption"] for line in (tmp_path / "captions.jsonl").open()]
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_dict({"words": captions}).to_parquet(str(tmp_path / "hub" / "train.parquet"))
    options = ("--dataset", str(tmp_path / "hub"), "--prompt_key", "words")
    screen("streamed", *options, "--end", "6")
    folder, cost = screen("streamed", *options)
    assert cost == 2 + 2 * 7  # goes on behind the first part
    rows, wanted = (read_run(f / "det_outputs" / "test_screen.parquet").rows for f in (folder, screen("whole")[0]))
    assert [dict(row) for row in rows] == [dict(row) for row in wanted]
