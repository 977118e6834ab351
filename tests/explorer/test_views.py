"""What the explorer shows is what the scripts write, and a wish that is over ends."""

import math
import re
import shlex
import subprocess
import threading

import numpy as np
import pytest
import torch

import detect_mem
import explore
import inference_mem
import memorization
from memorization.bundled import COPY_DESCRIPTOR, GROUND_TRUTH, PLANTED
from memorization.data.pictures import read_image
from memorization.errors import InputError
from memorization.evaluation.controls import controls_of_run
from memorization.evaluation.decisions import Decisions
from memorization.explorer import fragments
from memorization.explorer.asked import LONGEST_PROMPT, make_asked
from memorization.explorer.commands import command_lines
from memorization.explorer.looking import paced
from memorization.explorer.saving import page_of
from memorization.explorer.sessions import LOOK, Explorer
from memorization.explorer.stopping import Stop, Stopped, stoppable, watched
from memorization.explorer.world import World
from memorization.models.stable_diffusion import load_pipeline
from memorization.tiles import EVERY_LAYER
from tools import index_training_set

HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{7*7}}'\"</script><i>owl"


def make_explorer(model_folder, *words):
    args = ["--model_id", str(model_folder), "--dataset", "planted_mem_groundtruth", "--num_controls", "3", *words]
    return Explorer(World.from_args(explore.make_parser().parse_args(args)))


@pytest.fixture(scope="module")
def explorer(model_folder):
    return make_explorer(model_folder)


def ask(explorer, prompt, seed=5, steps=3, guidance=None):
    models = explorer.world.models
    return make_asked(prompt, seed, steps, guidance, models.choose(models.own))


def finished(explorer, prompt, name="me", **how):
    *_, view = explorer.look(name, ask(explorer, prompt, **how), explorer.claim(name, LOOK, None))
    return view


def test_numbers_and_pictures_are_those_of_the_scripts(explorer, loaded, tmp_path):
    """A known prompt keeps its place in the data set, so that seeds, training pictures and rows are the scripts'."""
    view = finished(explorer, " the scarlet engine mug ")
    *_, view = explorer.mitigate("me", 0, "gni", 0.2, explorer.claim("me", 0, None))
    usual = {"num_inference_steps": 3, "num_images_per_prompt": 1, "output_dir": tmp_path}
    own = {"dataset": "planted_mem_groundtruth", "start": 1, "end": 2, "gen_seed": 5, **usual}
    run = detect_mem.run(loaded, **own)
    assert view.place == 1 and np.array_equal(view.image, run.image(run.rows[0], 0)) and view.tiles
    for key, values in view.scores.items():
        assert np.array_equal(values, np.array(run.rows[0][key], np.float32)), key
    assert view.curve == pytest.approx(run.rows[0]["text_noise_norm"][0], rel=1e-6)
    controls = detect_mem.run(loaded, run_name="controls", dataset="planted_ordinary.jsonl", end=3, **usual)
    (decided,) = Decisions(controls_of_run(controls, "text_noise_norm", 1)).of_rows(run.rows)
    assert view.controls.p_value(decided["score"], "text_noise_norm", 1) == decided["p"]
    changed = inference_mem.run(loaded, method="gni", strength=0.2, **own)
    (row,), one = changed.rows, view.mitigated[0]
    assert np.array_equal(one.image, changed.image(row, 0)) and one.measures["pixel"] == row["pixel_similarity"][0]
    assert [one.magnitude_before] == row["magnitude_before"] and [one.magnitude_after] == row["magnitude_after"]
    assert f'<data value="{one.magnitude_after}">' in fragments.mitigated(view, 0)
    assert f'<data value="{decided["p"]}">' in fragments.scores(view) and len(view.neighbours) == 1


def test_one_pass_gives_what_a_detection_and_tiles_of_their_own_give(explorer, loaded):
    view, how = finished(explorer, "a large red heart on the left"), {"num_inference_steps": 3}
    (alone,) = memorization.detect(loaded, view.record, gen_seed=5, **how)
    assert np.array_equal(view.image, alone.images[0]) and np.array_equal(view.mask, alone.mask[0])
    assert view.scores.keys() == alone.scores.keys()
    assert all(np.array_equal(view.scores[key], alone.scores[key]) for key in alone.scores)
    assert list(view.tiles) == [EVERY_LAYER, *loaded.map_layers]
    for name, tiles in view.tiles.items():
        layers = [] if name == EVERY_LAYER else [name]
        own = memorization.attention_tiles(loaded, view.record.prompt, layers=layers, seed=alone.seeds[0], **how)
        assert (tiles.tokens, tiles.steps, tiles.layers) == (own.tokens, own.steps, own.layers)
        assert np.array_equal(tiles.maps, own.maps) and np.array_equal(tiles.image, own.image)


def test_a_lora_and_an_index_are_those_of_the_command_line(model_folder, tmp_path):
    pytest.importorskip("peft")
    from helpers.loras import make_loras

    files, _ = make_loras(load_pipeline(model_folder), tmp_path / "loras")
    index, descriptor = tmp_path / "index", str(COPY_DESCRIPTOR)
    index_training_set.main(["--training_data", str(GROUND_TRUTH), "--sscd", descriptor, "--output", str(index)])
    words = ("--loras", str(tmp_path / "loras"), "--index", str(index), "--sscd", descriptor)
    explorer = make_explorer(model_folder, *words)
    models, lora = explorer.world.models, files["diffusers"]
    asked = make_asked("a blue boat", 5, 3, None, models.choose(models.own, lora.name, 0.5))
    *_, view = explorer.look("me", asked, explorer.claim("me", LOOK, None))
    tuned = load_pipeline(model_folder, lora=[f"{lora}:0.5"])
    (alone,) = memorization.detect(tuned, "a blue boat", gen_seed=5, num_inference_steps=3)
    assert not view.told and np.array_equal(view.image, alone.images[0])
    assert not np.array_equal(view.image, finished(explorer, "a blue boat").image)
    assert shlex.split(command_lines(explorer.world, view)[1]).count(f"{lora}:0.5") == 1
    near, describe = view.neighbours, explorer.world.measures.evaluators.descriptor
    pictures = [picture for record in explorer.world.records for picture in record.reference_images]
    every = np.sort(describe([read_image(p) for p in pictures]) @ describe([view.image])[0])[::-1]
    assert [n.similarity for n in near] == pytest.approx(every[: len(near)], abs=2e-3) and len(near) == 6
    assert {n.text for n in near} <= {record.prompt for record in explorer.world.records}


def test_the_command_lines_are_understood_and_the_prompt_file_holds_the_prompt(explorer, tmp_path):
    view = finished(explorer, HOSTILE, guidance=2.5)
    *_, view = explorer.mitigate("me", 0, "pe", 0.5, explorer.claim("me", 0, None))
    first, *lines = command_lines(explorer.world, view)
    subprocess.run(["bash", "-c", first], cwd=tmp_path, check=True)
    (file,) = tmp_path.iterdir()
    parsers = {"detect_mem.py": detect_mem, "inference_mem.py": inference_mem}
    asked = [words for words in map(shlex.split, lines) if words[1] in parsers]
    read = [parsers[words[1]].make_parser().parse_args(words[2:]) for words in asked]
    assert [args.guidance_scale for args in read] == [2.5] * 3 and read[0].dataset == file.name
    (record,) = detect_mem.run(
        explorer.world.models.pipe(view.asked.chosen), dataset=str(file), output_dir=tmp_path, num_inference_steps=1
    ).rows
    assert record["prompt"] == view.record.prompt


def test_hostile_prompts_are_text_and_long_ones_are_refused(explorer):
    view = finished(explorer, HOSTILE)
    page = page_of(explorer.world, view)
    assert "<img src=x" not in page and "<i>owl" not in page and "&lt;i&gt;owl" in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    with pytest.raises(InputError, match=f"has 10000 characters; at most {LONGEST_PROMPT}"):
        ask(explorer, "x" * 10_000)
    assert "&lt;b&gt;" in fragments.status(fault="<b>")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("", 0, 3, None), "there is no prompt"),
        (("owl", -1, 3, None), "the seed is -1"),
        (("owl", 0.5, 3, None), "the seed is a whole number"),
        (("owl", float("nan"), 3, None), "the seed is a whole number"),
        (("owl", 0, 10**6, None), "the number of steps is 1000000"),
        (("owl", 0, 3, "much"), "the guidance scale is a number up to 100"),
        (("owl", 0, 3, "1e400"), "the guidance scale is a number up to 100"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(explorer, fields, message):
    with pytest.raises(InputError, match=message):
        make_asked(*fields, explorer.world.models.choose(explorer.world.models.own))


def test_only_models_of_the_command_line_and_its_folders_are_opened(model_folder, tmp_path):
    (tmp_path / "another").symlink_to(model_folder)
    (tmp_path / "no_model").mkdir()
    models = make_explorer(model_folder, "--models", str(tmp_path)).world.models
    assert models.names == [str(model_folder), "another"]
    for path in ("/etc/passwd", "../no_model", str(tmp_path / "another"), "no_model", None, 3):
        with pytest.raises(InputError, match="there is no model"):
            models.choose(path)
    with pytest.raises(InputError, match="there is no LoRA"):
        models.choose("another", "/etc/passwd")
    with pytest.raises(InputError, match="holds no model folder"):
        make_explorer(model_folder, "--models", str(tmp_path / "no_model"))


def test_a_newer_wish_a_closed_page_and_an_end_of_looking_stop_the_loop(explorer):
    pipe = explorer.world.models.pipe(ask(explorer, "owl").chosen)
    for end in (lambda views: explorer.wish("me"), lambda views: explorer.close("me"), lambda views: views.close()):
        stop, before = explorer.claim("me", LOOK, explorer.wish("me")), pipe.num_unet_evals
        views = explorer.look("me", ask(explorer, "owl", steps=900), stop)
        for view in views:
            if view.curve:
                break
        end(views)
        assert stop.asked.is_set()
        list(views)
        with explorer.world.lock:  # the thread has ended
            assert pipe.num_unet_evals - before < 900
    assert "denoise" not in vars(pipe) and not pipe.denoiser._forward_pre_hooks


def test_a_wish_that_waited_too_long_is_not_begun(explorer):
    first = explorer.wish("me")
    second = explorer.wish("me")
    explorer.claim("me", LOOK, second)
    with pytest.raises(Stopped):
        explorer.claim("me", LOOK, first)


def test_two_pages_do_not_mix(explorer):
    alone = {prompt: finished(explorer, prompt, prompt).image for prompt in ("a red heart", "a blue boat")}
    found = {}
    threads = [threading.Thread(target=lambda p=p: found.update({p: finished(explorer, p, p)})) for p in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[p].image, alone[p]) and found[p].record.prompt == p for p in alone)


def test_what_is_told_of_an_unfinished_picture_keeps_its_pace():
    told = []
    for seconds in (math.inf, 0):
        tell = paced(told.append, seconds)
        tell(f"first of {seconds}")
        tell(f"second of {seconds}")
    assert told == ["first of inf", "first of 0", "second of 0"]


def test_looking_on_changes_nothing_and_leaves_nothing(pipe):
    text, uncond = pipe.encode(["an owl"])
    noise, seen = pipe.initial_latents([5]), []
    plain = pipe.generate(noise, (uncond, text), num_inference_steps=3)
    with watched(pipe, lambda step, count: seen.append((step.index, count))), stoppable(pipe, Stop()):
        looked = pipe.generate(noise, (uncond, text), num_inference_steps=3)
    assert torch.equal(plain, looked) and seen == [(0, 3), (1, 3), (2, 3)]
    stop = Stop()
    stop.ask()
    with pytest.raises(Stopped), stoppable(pipe, stop):
        pipe.generate(noise, (uncond, text), num_inference_steps=3)
    assert "denoise" not in vars(pipe) and not pipe.denoiser._forward_pre_hooks


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("builtins.__import__", refusing(__import__))
    with pytest.raises(SystemExit) as stop:
        explore.main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: explore.py needs the package gradio: pip install -e ".[explorer]"\n'


def refusing(importing):
    def importing_all_but_gradio(name, *args, **kwargs):
        if name == "memorization.explorer.serving":
            raise ModuleNotFoundError(name)
        return importing(name, *args, **kwargs)

    return importing_all_but_gradio


def test_the_bundled_model_comes_with_its_evaluators():
    world = World.from_args(explore.make_parser().parse_args(["--num_controls", "1"]))
    assert world.measures.evaluators.descriptor is not None and world.measures.evaluators.clip is not None
    assert world.dataset == str(PLANTED / "planted_mem_groundtruth")
