"""Captioned pictures as people have them: every form gives the same captions and pixels, and its faults are told."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from memorization.data.contents import dataset_content
from memorization.data.pictures import check_pictures, read_image
from memorization.data.prompts import load_prompts
from memorization.errors import InputError

CAPTIONS = ["a red owl", "a blue fox", "a green mug"]
PIXELS = [np.full((6, 5, 3), 40 * (k + 1), np.uint8) for k in range(3)]


def png(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png")
    return data.getvalue()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def kohya(folder, suffix=".caption"):
    for k, (caption, pixels) in enumerate(zip(CAPTIONS, PIXELS, strict=True)):
        write(folder / "10_owl" / f"{k}.png", png(pixels))
        write(folder / "10_owl" / f"{k}{suffix}", caption)
    return folder


def listed(folder, suffix):
    for k, pixels in enumerate(PIXELS):
        write(folder / "train" / f"{k}.png", png(pixels))
    rows = [{"file_name": f"train/{k}.png", "text": c} for k, c in enumerate(CAPTIONS)]
    if suffix == ".csv":
        text = "file_name,text\n" + "".join(f"{r['file_name']},{r['text']}\n" for r in rows)
    else:
        text = "".join(json.dumps(r) + "\n" for r in rows)
    write(folder / f"metadata{suffix}", text)
    return folder


def archive(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(as_json=False):
    for k, (caption, pixels) in enumerate(zip(CAPTIONS, PIXELS, strict=True)):
        yield f"part/{k:05}.png", png(pixels)
        yield (
            (f"part/{k:05}.json", json.dumps({"caption": caption}).encode())
            if as_json
            else (
                f"part/{k:05}.txt",
                caption.encode(),
            )
        )


def rows_of_parquet(path, as_records):
    cells = [{"bytes": png(p), "path": None} if as_records else png(p) for p in PIXELS]
    parquet.write_table(pyarrow.table({"image" if as_records else "jpg": cells, "caption": CAPTIONS}), path, 2)
    return path


FORMS = {
    "kohya": kohya,
    "kohya, texts": lambda f: kohya(f, ".txt"),
    "metadata.jsonl": lambda f: listed(f, ".jsonl"),
    "metadata.csv": lambda f: listed(f, ".csv"),
    "one archive": lambda f: archive(f / "0.tar", samples()),
    "archives": lambda f: archive(f / "0.tar", samples(as_json=True)).parent,
    "parquet, records": lambda f: rows_of_parquet(f / "x.parquet", True),
    "parquet, bytes": lambda f: rows_of_parquet(f / "x.parquet", False),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_captions_and_pixels(tmp_path, form):
    path = FORMS[form](tmp_path)
    records = load_prompts(str(path))
    assert [(r.index, r.prompt) for r in records] == list(enumerate(CAPTIONS))
    for record, pixels in zip(records, PIXELS, strict=True):
        (picture,) = record.reference_images
        assert (read_image(picture) == pixels).all()
    check_pictures(records)
    assert [r.repeats for r in records] == [10 if form.startswith("kohya") else 1] * 3
    assert [r.prompt for r in load_prompts(str(path), 1, 2)] == CAPTIONS[1:2]
    assert dataset_content(str(path))


def test_a_picture_without_a_text_is_called_by_kohyas_folder(tmp_path):
    (kohya(tmp_path) / "10_owl" / "1.caption").unlink()
    assert [r.prompt for r in load_prompts(str(tmp_path))] == [CAPTIONS[0], "owl", CAPTIONS[2]]


def test_a_list_of_files_says_kinds_and_further_captions(tmp_path):
    (tmp_path / "a.png").write_bytes(png(PIXELS[0]))
    rows = [{"file_name": "a.png", "text": "an owl", "Type": "bird", "caption1": "one owl"}]
    rows.append({"file_name": "a.png", "text": "an owl", "kind": 7})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = load_prompts(str(tmp_path))
    assert (first.kind, first.alternatives) == ("bird", ("one owl",)) and second.kind is None


def test_what_lacks_a_picture_or_a_caption_is_left_out_and_told(tmp_path, capsys):
    (listed(tmp_path / "list", ".jsonl") / "train" / "1.png").unlink()
    assert [r.index for r in load_prompts(str(tmp_path / "list"))] == [0, 2]
    assert "1 of 3 files that are listed are not there and are left out" in capsys.readouterr().err
    path = archive(tmp_path / "a.tar", [*samples(), ("part/00009.txt", b"no picture"), ("x.png", png(PIXELS[0]))])
    assert [r.index for r in load_prompts(str(path))] == [0, 1, 2]
    assert "2 of 5 samples" in capsys.readouterr().err


def test_what_lies_behind_a_tear_is_left_out_and_told(tmp_path, capsys):
    path = archive(tmp_path / "a.tar", samples())
    path.write_bytes(path.read_bytes()[:3000])
    assert [r.prompt for r in load_prompts(str(path))] == CAPTIONS[:1]
    assert "a.tar is torn behind" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: write(f / "a.tar", b"<html>not found</html>"), "a.tar is not a readable tar archive"),
        (lambda f: archive(f / "a.tar", [("0.txt", b"alone")]), "holds no picture with a caption"),
        (lambda f: write(f / "metadata.jsonl", '{"text": "a"}\n').parent, "line 1: it needs file_name and caption"),
        (lambda f: write(f / "metadata.csv", "file_name,text\nx.png,a\n").parent, "none of the 1 files"),
        (lambda f: write(f / "10_owl" / "notes.md", "x").parents[1], "no picture in any of them"),
    ],
)
def test_bad_folders_are_one_line(tmp_path, make, message):
    with pytest.raises(InputError, match=message) as error:
        load_prompts(str(make(tmp_path)))
    assert "\n" not in str(error.value)


def test_a_picture_that_is_a_page_is_named_by_its_archive(tmp_path):
    path = archive(tmp_path / "a.tar", [("0.png", b"<html>"), ("0.txt", b"a page")])
    with pytest.raises(InputError, match=r"a.tar, 0.png is not a readable image"):
        check_pictures(load_prompts(str(path)))
