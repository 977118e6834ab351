"""The report: one page with everything in it, looked at in a browser where there is one."""

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
