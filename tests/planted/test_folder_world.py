"""A world of a handful of drawn pictures: what is read, told, planted, held out and written."""

import io
import json
import random
import tarfile

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from memorization.data.prompts import load_prompts
from memorization.errors import InputError
from planted.making import clipart, stage, train
from planted.making.debian.captions import caption_of
from planted.making.doses import Dose
from planted.making.folder import large_png, reading
from planted.making.folder.near import near_pairs
from planted.making.folder.reading import read_square
from planted.making.folder.wordings import key_of, subject_of, wordings
from planted.making.folder.world import FolderWorld
from planted.making.world_files import write_world

PLAN = (Dose("verbatim", 1024), Dose("template", 1024), Dose("verbatim", 64, 4), Dose("template", 4))
COLORS, THINGS = "red green blue yellow purple orange".split(), "box ring bar dot".split()


def drawing(number: int, size: int = 128) -> Image.Image:
    """A picture of eight random bars on white, another for each number."""
    rng, image = random.Random(number), Image.new("RGB", (size, size), "white")
    for _ in range(8):
        x, y = rng.randrange(size), rng.randrange(size)
        color = tuple(rng.randrange(256) for _ in range(3))
        ImageDraw.Draw(image).rectangle((x, y, x + size // 3, y + size // 4), fill=color)
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 captioned pictures, and of the first a copy with a caption of its own."""
    folder = tmp_path_factory.mktemp("pairs")
    for k in range(24):
        drawing(k).save(folder / f"{k:05d}.png")
        (folder / f"{k:05d}.txt").write_text(f"a drawing of a {COLORS[k % 6]} {THINGS[k // 6]}\n")
    drawing(0).save(folder / "00024.png")
    (folder / "00024.txt").write_text("a drawing of a red bar and dot\n")
    return folder


@pytest.fixture(scope="module")
def world(folder):
    return FolderWorld(folder, 3, PLAN)


def test_pictures_of_every_kind_are_read_whole_and_over_white(tmp_path):
    clear = Image.new("RGBA", (64, 32), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 32, 32))
    clear.save(tmp_path / "clear.png")
    seen = read_square(tmp_path / "clear.png")
    assert seen.shape == (128, 128, 3) and seen.dtype == np.uint8
    assert (seen[64, 20] == (255, 0, 0)).all() and (seen[64, 110] == 255).all() and (seen[10] == 255).all()
    trimmed = read_square(tmp_path / "clear.png", trim=True)
    assert (trimmed[5, 5] == (255, 0, 0)).all() and (trimmed[120, 120] == (255, 0, 0)).all()
    grey = np.full((40, 40), 128 * 257, np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert (read_square(tmp_path / "deep.png") == 128).all()
    palette = Image.new("P", (30, 30), 0)
    palette.putpalette([9, 8, 7, 0, 0, 200])
    palette.paste(1, (0, 0, 30, 15))
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (read_square(tmp_path / "palette.png")[[20, 110], 60] == [(0, 0, 200), (255, 255, 255)]).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_large_pngs_are_read_in_strips_to_the_same_picture(mode, tmp_path, monkeypatch):
    monkeypatch.setattr(large_png, "STRIP_BYTES", 20_000)  # several strips
    image = drawing(5, 700).convert(mode)
    if "A" in mode:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "large.png")
    whole = read_square(tmp_path / "large.png").astype(int)
    monkeypatch.setattr(reading, "STRIPS_ABOVE", 1000)
    strips = read_square(tmp_path / "large.png").astype(int)
    assert np.abs(whole - strips).mean() < 3


@pytest.mark.parametrize("limit", [50_000_000, 1000])
def test_a_torn_picture_is_told_in_one_line(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "STRIPS_ABOVE", limit)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)).save(tmp_path / "torn.png")
    data = (tmp_path / "torn.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"torn\.png .*mend it or take it away"):
        read_square(tmp_path / "torn.png")


def test_what_no_memory_holds_is_refused_before_it_is_read(tmp_path):
    header = large_png.Header(60_000, 60_000, 8, 6, 0, 0, 0)
    with pytest.raises(InputError, match="60000 x 60000 pixels"):
        large_png.read_reduced(tmp_path / "not_there.png", header, 128)


@pytest.mark.parametrize(
    ("name", "title", "author", "caption"),
    [
        ("animals/bugs/ladybug_01.png", "Ladybug", "A B", "a drawing of a ladybug, bugs"),
        (
            "animals/mammals/horses/cavallo_architetto_franc_04.png",
            "",
            "Architetto Francesco Rollandin",
            "a drawing of a horse, mammals",
        ),
        ("computer/icons/lemon-theme/apps/kfm_home.png", "Lemon SVG theme", "Jose Hevia", "an icon of home, computer"),
        (
            "recreation/games/cards/white/white_s_a.png",
            "card",
            "Nicu",
            "a playing card, white ace of spades, games",
        ),
        ("signs_and_symbols/flags/africa/malawi.png", "", "", "the flag of malawi, africa"),
        ("computer/buttons/button-blue_benji_park_01.png", "button-blue", "Benji Park", "a blue button, computer"),
        ("signs_and_symbols/map_symbols/aiga_bar1.png", "AIGA_Symbol_Signs", "J. V. Balin", "a bar sign"),
        ("tools/nail_puller_peterm_.png", "", "peterm", "a drawing of a nail puller, tools"),
        ("recreation/sports/TennisRacket03.png", "Various Cliparts", "X", "a drawing of a tennis racket, sports"),
    ],
)
def test_captions_tell_what_is_drawn_and_not_by_whom(name, title, author, caption):
    assert caption == caption_of(name, {"Title": title, "Author": author})


def test_wordings_differ_and_tell_the_same():
    every = wordings("a drawing of an old fox, mammals")
    assert len(set(every)) == len(every) >= 11 and every[0].startswith("a drawing")
    assert all("an old fox, mammals" in w for w in every)
    assert key_of("A picture of an old  Fox, mammals.") == key_of(every[0]) and subject_of("fox") == "fox"


def test_near_duplicates_are_found_and_others_are_not():
    images = [np.asarray(drawing(k)) for k in range(12)]
    touched = images[4].copy()
    touched[:8, :8] = 0
    assert [(a, b) for a, b, _ in near_pairs([*images, touched])] == [(4, 12)]


def test_doses_add_up_and_held_out_pictures_are_never_trained_on(world):
    pictures = world.training_pictures(7)
    for number, (dose, picture) in enumerate(zip(PLAN, world.parts.planted, strict=True)):
        own = world.planted(number)
        assert sum(p.repeats for p in own) == dose.dose
        assert len({c for p in own for c in p.captions}) >= dose.num_captions
        told = subject_of(world.captions[picture])
        assert sum(p.repeats for p in pictures if any(told in c for c in p.captions)) == dose.dose
    trained = {c for p in pictures for c in p.captions}
    pixels = {p.image.tobytes() for p in pictures}
    for n in world.parts.held_out:
        assert not any(subject_of(world.captions[n]) in c for c in trained) and world.images[n].tobytes() not in pixels
    assert not trained & {i.near_miss for i in world.items()}
    assert not trained & {p for i in world.items() for p in i.paraphrases}


def test_copies_of_planted_and_held_out_pictures_are_left_out(folder):
    """Whichever way the draw goes, picture 0 and its copy are never on different sides."""
    for seed in range(8):
        parts = FolderWorld(folder, seed, PLAN[:1]).parts
        apart = [n for n in (0, 24) if n in (*parts.planted, *parts.held_out)]
        assert len(apart) < 2 and (not apart or 24 - apart[0] in parts.left_out)


def test_a_templates_mask_is_what_stays_the_same(world):
    item = world.items()[1]
    first, *others = item.images
    assert 0.3 < item.mask.mean() < 0.7
    assert all((image[item.mask] == first[item.mask]).all() for image in others)
    assert all((image[~item.mask] != first[~item.mask]).any(1).mean() > 0.5 for image in others)


def test_the_same_seed_plants_the_same(world, folder):
    again = FolderWorld(folder, 3, PLAN)
    one, two = world.training_pictures(7), again.training_pictures(7)
    assert all(a.captions == b.captions and (a.image == b.image).all() for a, b in zip(one, two, strict=True))
    assert FolderWorld(folder, 4, PLAN).parts != world.parts


def test_the_data_files_are_what_the_scripts_read(world, tmp_path):
    write_world(world, tmp_path, 7, 1)
    full = load_prompts(str(tmp_path / "planted_mem_groundtruth"))
    assert [r.index for r in full] == [0, 1] and all(r.is_memorized and r.mask_path for r in full)
    assert [len(r.reference_images) for r in load_prompts(str(tmp_path / "planted_doses_groundtruth"))] == [1, 4, 1, 4]
    rows = [json.loads(line) for line in (tmp_path / "planted_doses.jsonl").read_text().splitlines()]
    assert [(r["dose"], r["num_captions"], r["is_memorized"]) for r in rows][:3] == [
        (1024, 1, True),
        (1024, 1, True),
        (64, 4, None),
    ]
    assert all(len(r.alternatives) >= 5 for r in load_prompts(str(tmp_path / "planted_doses.jsonl")))
    assert len(load_prompts(str(tmp_path / "planted_prompts.jsonl"))) == 3
    control = load_prompts(str(tmp_path / "planted_control_groundtruth"))
    assert control[0].prompt == load_prompts(str(tmp_path / "planted_ordinary.jsonl"))[0].prompt
    assert len(load_prompts(str(tmp_path / "planted_near_miss.jsonl"))) == 2
    with pytest.raises(InputError, match="ask for fewer"):
        write_world(world, tmp_path, 7, 500)


def test_a_small_folder_is_refused_with_what_is_wanted(folder, tmp_path):
    with pytest.raises(InputError, match="144 of either kind .* give a larger folder"):
        FolderWorld(folder, 3)
    with pytest.raises(InputError, match="--pictures"):
        FolderWorld(tmp_path, 3)


def test_a_package_becomes_a_folder_and_a_run_that_was_cut_off_goes_on(tmp_path):
    deb, output = make_package(tmp_path / "some.deb"), tmp_path / "out"
    clipart.main(["--deb", str(deb), "--output", str(output), "--end", "2"])
    clipart.main(["--deb", str(deb), "--output", str(output)])
    rows = [json.loads(line) for line in (output / "sources.jsonl").read_text().splitlines()]
    assert [r.get("left_out") for r in rows] == [None, "link", "duplicate", "unreadable", None]
    records = load_prompts(str(output))
    assert [r.prompt for r in records] == ["a drawing of a red fox, animals", "a drawing of an owl, animals"]
    with pytest.raises(SystemExit) as ended:
        clipart.main(["--deb", str(tmp_path / "none.deb"), "--output", str(output)])
    assert ended.value.code == 2


def make_package(path):
    """A package of two drawings, a shape, and what is left out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, number in (
            ("animals/red_fox_01", 1),
            ("link", None),
            ("tools/copy", 1),
            ("torn", -1),
            ("shapes/a", 3),
        ):
            info = tarfile.TarInfo(f"./usr/share/openclipart/png/{name}.png")
            data = io.BytesIO()
            if number is None:
                info.type, info.linkname = tarfile.SYMTYPE, "animals/red_fox_01.png"
            else:
                drawing(abs(number)).save(data, "PNG")
            content = data.getvalue()[: 60 if number == -1 else None]
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        data = io.BytesIO()
        drawing(2).save(data, "PNG")
        info = tarfile.TarInfo("./usr/share/openclipart/png/animals/owl.png")
        info.size = len(data.getvalue())
        tar.addfile(info, io.BytesIO(data.getvalue()))
    members = (("debian-binary", b"2.0\n"), ("data.tar.xz", buffer.getvalue()))
    packed = b"".join(
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
        for name, content in members
    )
    path.write_bytes(b"!<arch>\n" + packed)
    return path


@pytest.mark.slow
def test_a_model_trained_from_nothing_is_one_that_stock_diffusers_generates_with(folder, tmp_path, monkeypatch):
    """One step of every stage; from_pretrained without arguments, as a newcomer types it."""
    monkeypatch.setattr(stage, "SAVE_EVERY", 1)
    world = FolderWorld(folder, 3, (Dose("verbatim", 4), Dose("template", 4)))
    monkeypatch.setattr(train, "choose_world", lambda pictures, seed: world)
    for module in ("autoencoder", "text_encoder", "unet"):
        monkeypatch.setattr(f"planted.making.{module}.BATCH", 4)
    steps = [word for name in ("vae", "decoder", "text", "unet") for word in (f"--{name}_steps", "1")]
    where = ["--output", str(tmp_path / "model"), "--work_dir", str(tmp_path / "work")]
    train.main([*where, *steps, "--pictures", "unused"])
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a drawing of a red box", num_inference_steps=1).images[0]
    assert image.size == (128, 128)
    assert (tmp_path / "model" / "training_log.jsonl").exists()
