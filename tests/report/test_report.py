"""The report: one page with everything in it, looked at in a browser where there is one."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

import eval_mem
from helpers.eval_runs import (
    detection_rows,
    make_row,
    quarters,
    write_descriptor,
    write_ground_truth,
    write_images,
    write_run,
)
from memorization.report.page import data_uri

BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of a labelled detection run and two mitigation runs."""
    folder = tmp_path_factory.mktemp("report")
    root = write_ground_truth(folder)
    rows = [*detection_rows(True, 2), *({**r, "index": r["index"] + 50} for r in detection_rows(False, 0))]
    rows = [{**r, "prompt": f"<b>{r['prompt']}</b>"} for r in rows]
    for row in rows:
        write_images(folder, "both_ours", row, [quarters(row["index"] + k) for k in range(2)])
    runs = [write_run(folder, "both_ours", rows, dataset=str(root))]
    for name, strength in (("none", None), ("pe", 1.0)):
        rows = [make_row(i, kind="verbatim", method=name, unet_evals_per_image=8.0) for i in range(4)]
        for row in rows:
            write_images(folder, f"m_{name}", row, [quarters(row["index"] + 9 * (name == "pe"))] * 2)
        runs.append(write_run(folder, f"m_{name}_mitigation", rows, dataset=str(root), optim_target_loss=strength))
    path = folder / "report.html"
    sscd = ["--sscd", str(write_descriptor(folder))]
    eval_mem.main(["report", *map(str, runs), "--output", str(path), "--bootstrap", "20", "--title", "An audit", *sscd])
    return path


def test_the_page_holds_everything_itself(page):
    text = page.read_text(encoding="utf-8")
    assert all(
        f"<h2>{title}</h2>" in text for title in ("Detection", "Prompts by score", "Mitigation", "How it was made")
    )
    assert (
        "<h1>An audit</h1>" in text and "both_ours.jsonl" in text and "color.torchscript.pt, preprocessing wen" in text
    )
    assert "&lt;b&gt;prompt" in text and "<b>prompt" not in text  # prompts are text, whatever they hold
    sources = re.findall(r'(?:src|srcset|href)="([^"]{0,20})', text)
    assert sources and all(s.startswith(("data:image/png", "#")) for s in sources)
    assert "<script" not in text and "@import" not in text and "url(" not in text


def test_a_run_without_images_still_gets_its_tables(tmp_path):
    rows = [*detection_rows(True, 2), *({**r, "index": r["index"] + 50} for r in detection_rows(False, 0))]
    run = write_run(tmp_path, "bare_ours", rows)
    eval_mem.main(["report", str(run), "--output", str(tmp_path / "r.html"), "--bootstrap", "5"])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "The 24 highest of 24 prompts" in text and "bright-ending mask over" not in text


@pytest.fixture
def copied(tmp_path):
    """A run that copies its training pictures, controls and a descriptor."""
    root = write_ground_truth(tmp_path)
    rows = [make_row(i, kind="verbatim", is_memorized=True) for i in range(4)]
    for row in rows:
        write_images(tmp_path, "mem_ours", row, [quarters(row["index"])] * 2)
    others = [{**make_row(i), "prompt": f"control {i}"} for i in range(8)]
    for row in others:
        write_images(tmp_path, "others_ours", row, [quarters(1000 + row["index"])] * 2)
    run = write_run(tmp_path, "mem_ours", [{**r, "text_noise_norm": [[1.0] * 4] * 2} for r in rows], dataset=str(root))
    return run, write_run(tmp_path, "others_ours", others, dataset="c.jsonl"), write_descriptor(tmp_path)


def test_copies_and_attention_stand_on_the_page_where_they_are_given(copied, tmp_path):
    run, controls, descriptor = copied
    for name, prompt in (("one", "prompt 1"), ("other", "<i>a plain one</i>")):
        Image.new("RGB", (300, 150), "red").save(tmp_path / f"{name}.png", dpi=(150, 150))
        told = {
            "prompt": prompt,
            "tokens": ["<begin>", "x"],
            "layers": ["up"],
            "steps": [0],
            "seed": 7,
            "model_id": "m",
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    path = tmp_path / "r.html"
    argv = ["report", run, "--output", path, "--bootstrap", 5, "--sscd", descriptor, "--controls", controls]
    argv += ["--attention", tmp_path / "one.png", "--attention", tmp_path / "other.png"]
    eval_mem.main([str(word) for word in argv])
    text = path.read_text(encoding="utf-8")
    assert "<h2>Copies</h2>" in text and "one of each prompt; below, the training picture" in text and "rank 1" in text
    assert "“prompt 1”, memorized: 2 tiles of 1 layers and 1 steps, seed 7." in text
    assert "&lt;i&gt;a plain one" in text and "<i>" not in text
    assert text.count(data_uri((tmp_path / "one.png").read_bytes())) == 4  # two pictures, light and dark
    assert "max-width: 220px" in text  # two inches


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (None, "one.png has no one.json beside it; make it by tools/show_attention.py"),
        ("{", "one.json is not JSON"),
        ('{"prompt": "a"}', "one.json lacks one of prompt, tokens"),
    ],
)
def test_a_picture_of_something_else_is_refused_in_one_line(copied, tmp_path, capsys, told, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    if told is not None:
        (tmp_path / "one.json").write_text(told)
    with pytest.raises(SystemExit) as stopped:
        eval_mem.main(
            ["report", str(copied[0]), "--output", str(tmp_path / "r.html"), "--attention", str(tmp_path / "one.png")]
        )
    assert stopped.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_controls_without_training_pictures_are_refused_in_one_line(copied, tmp_path, capsys):
    _, controls, descriptor = copied
    rows = [{**make_row(0), "text_noise_norm": [[1.0] * 4] * 2}]
    bare = write_run(tmp_path, "bare_ours", rows)
    argv = ["report", bare, "--output", tmp_path / "r.html", "--sscd", descriptor, "--controls", controls]
    with pytest.raises(SystemExit) as stopped:
        eval_mem.main([str(word) for word in argv])
    told = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and "none of the runs has images and training pictures" in told


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here; apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 500])  # headless Chromium's narrowest window is 500 px
def test_a_browser_shows_it_within_the_window(page, tmp_path, width):
    shot = tmp_path / "shot.png"
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={width},1600", f"--user-data-dir={tmp_path}/profile", f"--screenshot={shot}"]
    subprocess.run([*command, page.as_uri()], capture_output=True, timeout=600, check=True)
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[1] == width
    drawn = np.abs(pixels - pixels[2, 2]).sum(2) > 60
    assert 0.01 < drawn.mean() < 0.9  # neither blank nor broken
    assert drawn[:, : width // 2].any() and not drawn[:, -8:].any()  # the margin is kept: nothing runs out of it
