"""Pictures of every depth, mode and format are what they look like; what is none is named in one line."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from memorization.data.pictures import check_pictures, read_image, read_mask
from memorization.data.prompts import PromptRecord
from memorization.errors import InputError
from memorization.files.pixels import is_picture, picture_suffixes
from memorization.files.whole import read_png

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
ROTATED = 6  # EXIF: to be turned by 90 degrees clockwise
ORIENTATION = 0x112


def png(path, bit_depth, color_type, rows, *chunks):
    """A PNG written by hand, as Pillow writes no 16-bit colours; `rows` are bytes of the scanlines."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 16, 16, bit_depth, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (chunk(b"IHDR", header), *(chunk(*c) for c in chunks), chunk(b"IDAT", data), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def saved(path, image, **how):
    image.save(path, **how)
    return path


def wide(values, dtype):
    return (values.astype(np.int64) * 257).astype(dtype)


def grey_16(path):
    return png(path, 16, 0, [row.tobytes() for row in wide(GREY, ">u2")])


def colour_16(path):
    return png(path, 16, 2, [row.repeat(3).tobytes() for row in wide(GREY, ">u2")])


def tiff_16(path):
    return saved(path.with_suffix(".tif"), Image.fromarray(wide(GREY, "<u2")))


def tiff_16_big_endian(path):
    return saved(path.with_suffix(".tiff"), Image.frombytes("I;16B", (16, 16), wide(GREY, ">u2").tobytes()))


def tiff_16_white_is_zero(path):
    inverted = Image.fromarray(65535 - wide(GREY, "<u2"))
    return saved(path.with_suffix(".tif"), inverted, tiffinfo={262: 0})


def pgm_16(path):
    path = path.with_suffix(".pgm")
    path.write_bytes(b"P5 16 16 65535\n" + wide(GREY, ">u2").tobytes())
    return path


def palette(path):
    return saved(path, Image.fromarray(GREY).convert("P"))


def opaque(path):
    return saved(path, Image.fromarray(GREY).convert("LA"))


@pytest.mark.parametrize(
    "write",
    [grey_16, colour_16, tiff_16, tiff_16_big_endian, tiff_16_white_is_zero, pgm_16, palette, opaque],
)
def test_a_value_of_257_v_is_v(tmp_path, write):
    image = read_image(write(tmp_path / "a.png"))
    assert image.dtype == np.uint8 and (image == GREY[..., None]).all()
    assert image[:, :, 0].mean() == 127.5  # white throughout would be 255


def test_one_bit_and_inks(tmp_path):
    half = GREY > 127
    assert (read_image(saved(tmp_path / "bits.png", Image.fromarray(half)))[..., 1] == 255 * half).all()
    inks = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all of magenta and yellow: red
    assert read_image(saved(tmp_path / "inks.tif", inks))[0, 0].tolist() == [255, 0, 0]


def test_masks_and_images_of_runs_are_read_by_the_same_reader(tmp_path):
    assert (read_mask(grey_16(tmp_path / "m.png")) == (GREY > 127)).all()
    assert (read_png(grey_16(tmp_path / "r.png")) == GREY[..., None]).all()


@pytest.mark.parametrize("kind", ["alpha", "palette", "key"])
def test_what_is_transparent_is_white_in_pictures_and_outside_of_masks(tmp_path, kind):
    path = tmp_path / "a.png"
    pixels = np.full((16, 16, 4), (200, 200, 200, 255), np.uint8)
    pixels[:, 8:] = (255, 255, 255, 0) if kind == "alpha" else (90, 90, 90, 0)
    image = Image.fromarray(pixels)
    if kind == "alpha":
        image.save(path)
    elif kind == "palette":
        image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=2).save(path)
        index = Image.open(path).getpixel((12, 0))
        Image.open(path).copy().save(path, transparency=index)
    else:
        image.convert("RGB").save(path, transparency=(90, 90, 90))
    assert read_image(path)[0, [0, 12], 0].tolist() == [200, 255]
    assert read_mask(path)[0, [0, 12]].tolist() == [True, False]


@pytest.mark.parametrize(("suffix", "orientation"), [(".jpg", ROTATED), (".png", ROTATED), (".webp", 3)])
def test_a_picture_is_turned_as_its_exif_says(tmp_path, suffix, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255  # bright at the upper left as it is stored
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    how = {"lossless": True} if suffix == ".webp" else {}
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(pixels), exif=exif, **how)
    seen = read_image(path)
    assert seen.shape == ((32, 16, 3) if orientation == ROTATED else (16, 32, 3))
    corner = seen[:8, -4:] if orientation == ROTATED else seen[-4:, -4:]
    assert corner.mean() > 250


@pytest.mark.parametrize("how", [{}, {"compression": "tiff_lzw"}])
@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_a_tiff_is_turned_once(tmp_path, dtype, how):
    wide_picture = GREY.reshape(8, 32)
    values = wide_picture if dtype == "u1" else wide(wide_picture, dtype)
    path = saved(tmp_path / "a.tif", Image.fromarray(values), tiffinfo={ORIENTATION: ROTATED}, **how)
    assert (read_image(path)[..., 0] == np.rot90(wide_picture, -1)).all()


@pytest.mark.parametrize(("values", "told"), [(GREY.astype("float32") / 255, "floating"), (GREY.astype("int32"), "32")])
def test_numbers_whose_white_is_not_known_are_refused(tmp_path, values, told):
    with pytest.raises(InputError, match=rf"a.tif is not a readable image \(it holds {told}.*save it with 8 or 16"):
        read_image(saved(tmp_path / "a.tif", Image.fromarray(values)))


def test_sixteen_bits_with_a_transparent_grey_are_refused(tmp_path):
    path = png(tmp_path / "a.png", 16, 0, [row.tobytes() for row in wide(GREY, ">u2")], (b"tRNS", b"\0\1"))
    with pytest.raises(InputError, match="a.png is not .*transparent grey; save it with 8 bits"):
        read_image(path)


def test_files_that_are_no_single_picture_are_one_line_with_their_name(tmp_path):
    noise = Image.effect_noise((64, 64), 50)
    frames = [noise, noise.rotate(90)]
    whole = saved(tmp_path / "whole.jpg", noise).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "page.png").write_text("<html>404 not found</html>")
    saved(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    saved(tmp_path / "moving.webp", frames[0], save_all=True, append_images=frames[1:])
    saved(tmp_path / "pages.tif", frames[0], save_all=True, append_images=frames[1:])
    header = struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)  # 3.6 thousand million pixels
    data = grey_16(tmp_path / "bomb.png").read_bytes()
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "bomb.png").write_bytes(data[:16] + header + crc + data[33:])
    told = {
        "cut.jpg": "is not a readable image",
        "empty.png": "is not a readable image",
        "folder.png": "is not a readable image",
        "page.png": "is not a readable image",
        "moving.gif": "it holds 2 frames or pages; keep one",
        "moving.webp": "it holds 2 frames or pages; keep one",
        "pages.tif": "it holds 2 frames or pages; keep one",
        "bomb.png": "has more pixels than are read safely; make it smaller",
        "none.png": "is not a readable image",
    }
    for name, message in told.items():
        record = PromptRecord(0, "p", "p", reference_images=(tmp_path / name,))
        with pytest.raises(InputError) as refusal:
            check_pictures([record])
        text = str(refusal.value)
        assert message in text and text.count(name) == 1 and "\n" not in text, name


def test_every_format_that_is_read_is_known_by_its_suffix_in_any_case(tmp_path):
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"} - picture_suffixes() <= {
        ".avif"
    }
    assert not {".txt", ".json", ".h5", ".mpg", ".pdf", ""} & picture_suffixes()
    for name in ("0.WebP", "0.TIFF", "0.bmp", "0.JPeg"):
        image = read_image(saved(tmp_path / name, Image.fromarray(GREY).convert("RGB")))
        assert is_picture(tmp_path / name) and image.shape == (16, 16, 3)
    for name in ("._0.png", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
        assert not is_picture(tmp_path / name)
