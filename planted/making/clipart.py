"""Drawings of a Debian package as a folder of captioned pictures, NNNNN.png and NNNNN.txt, each 128 x 128 on white.

    python planted/making/clipart.py --output planted_work/clipart                            # openclipart-png
    python planted/making/clipart.py --package tuxpaint-stamps-default --output planted_work/stamps
    python planted/making/train.py --pictures planted_work/clipart                            # a world of them

The package is fetched by apt-get unless --deb names its file; the drawings are not ours to ship. Plain shapes,
links to other drawings and pictures with the very pixels of an earlier one are left out. sources.jsonl says of
every file what became of it, near_duplicates.jsonl which of the pictures are nearly the same. A run that was cut
off goes on where it stopped.
"""

import argparse
import hashlib
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ftfy
import numpy as np
from PIL import Image
from tqdm import tqdm

from memorization.errors import InputError, exit_on_input_error
from memorization.files.json_lines import decode_line
from planted.making.debian.captions import caption_of
from planted.making.debian.package import Packed, fetch_package, packed_files
from planted.making.folder.large_png import read_header
from planted.making.folder.near import near_pairs
from planted.making.folder.reading import read_square

Row = dict[str, object]
Captioner = Callable[[str, Mapping[str, str]], str]
CLIPART, STAMPS = "openclipart-png", "tuxpaint-stamps-default"
FOLDERS = {CLIPART: "usr/share/openclipart/png/", STAMPS: "usr/share/tuxpaint/stamps/"}
PLAIN_SHAPES = "shapes/"


def stamp_sentences(deb: Path) -> dict[str, str]:
    """The English line of every stamp's .txt, its first, by the stamp's name without suffix."""
    files = tqdm(packed_files(deb, (".txt",)), desc="sentences")
    texts = {f.name.removesuffix(".txt"): f.data.decode("utf-8", "replace").splitlines() for f in files if f.data}
    return {name: lines[0].strip().rstrip(".!") for name, lines in texts.items() if lines}


def texts_of(path: Path) -> dict[str, str]:
    """What a PNG says about itself, in whole letters; nothing of a picture that Pillow will not open for its size."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # only its texts are read
            image = Image.open(file)
            return {k: ftfy.fix_text(v) for k, v in image.info.items() if isinstance(v, str)}
    except (OSError, ValueError, Image.DecompressionBombError):
        return {}


def take(packed: Packed, folder: Path, number: int, captioner: Captioner, seen: Mapping[str, int]) -> Row:
    """Write a drawing and its caption, unless it is left out; the row says which."""
    row: Row = {"source": packed.name}
    if packed.data is None:
        return row | {"left_out": "link", "to": packed.link}
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(packed.data)
        file.flush()
        path = Path(file.name)
        header = read_header(path)
        size = [header.width, header.height] if header else None
        try:
            image = read_square(path, trim=True)
        except InputError as error:
            why = str(error).replace(file.name, "it")
            return row | {"left_out": "unreadable", "size": size, "why": why}
        caption = captioner(packed.name, texts_of(path))
    pixels = hashlib.sha256(image.tobytes()).hexdigest()[:16]
    if (image == image[0, 0]).all():
        return row | {"left_out": "blank"}
    if pixels in seen:
        return row | {"left_out": "duplicate", "of": seen[pixels]}
    Image.fromarray(image).save(folder / f"{number:05d}.png")
    (folder / f"{number:05d}.txt").write_text(caption + "\n", encoding="utf-8")
    return row | {"index": number, "pixels": pixels, "size": size, "caption": caption}


def read_done(path: Path) -> list[Row]:
    """What earlier runs did; a last line that was cut off does not count."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    return [dict(decode_line(path, k, line)) for k, line in enumerate(whole, 1)]


def wanted(deb: Path, package: str) -> Iterator[Packed]:
    """The package's drawings, named below its own folder, but the plain shapes."""
    for packed in packed_files(deb, (".png",)):
        name = packed.name.removeprefix(FOLDERS[package])
        if name != packed.name and not name.startswith(PLAIN_SHAPES):
            yield packed._replace(name=name)


def convert(deb: Path, package: str, folder: Path, end: int | None = None) -> list[Row]:
    """All drawings of a package as captioned pictures; a row per file of the package.

    Args:
        end: files that are looked at, all by default.

    Raises:
        InputError: if the package cannot be read, or the folder holds another one's pictures.
    """
    captioner: Captioner = caption_of
    if package == STAMPS:
        sentences = stamp_sentences(deb)
        prefix = FOLDERS[STAMPS]

        def captioner(name: str, texts: Mapping[str, str]) -> str:
            return sentences.get(prefix + name.removesuffix(".png")) or caption_of(name, texts)

    folder.mkdir(parents=True, exist_ok=True)
    rows = read_done(folder / "sources.jsonl")
    seen = {str(r["pixels"]): int(str(r["index"])) for r in rows if "pixels" in r}
    with (folder / "sources.jsonl").open("a", encoding="utf-8") as log:
        for k, packed in enumerate(tqdm(wanted(deb, package), desc=package)):
            if end is not None and k >= end:
                break
            if k < len(rows):
                if rows[k]["source"] != packed.name:
                    raise InputError(f"{folder} holds pictures of another package; name an empty --output")
                continue
            row = take(packed, folder, len(seen), captioner, seen)
            if "pixels" in row:
                seen[str(row["pixels"])] = len(seen)
            rows.append(row)
            log.write(json.dumps(row, ensure_ascii=False) + "\n")
            log.flush()
    return rows


def list_near(folder: Path, rows: Sequence[Row]) -> int:
    """Write near_duplicates.jsonl: pairs of pictures that are nearly the same; returns how many."""
    kept = [r for r in rows if "index" in r]
    images = [np.asarray(Image.open(folder / f"{int(str(r['index'])):05d}.png")) for r in tqdm(kept, desc="read")]
    pairs = near_pairs(images)
    lines = [json.dumps({"index": b, "near": a, "difference": round(d, 3)}) + "\n" for a, b, d in pairs]
    (folder / "near_duplicates.jsonl").write_text("".join(lines))
    return len(pairs)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("planted_work/clipart"), help="folder of the pictures")
    parser.add_argument("--package", choices=FOLDERS, default=CLIPART, help="which package it is")
    parser.add_argument("--deb", type=Path, help="its file; fetched by apt-get into --output's parent where not given")
    parser.add_argument("--end", type=int, help="files of the package that are looked at; all by default")
    args = parser.parse_args(argv)
    with exit_on_input_error():
        if args.deb is not None and not args.deb.is_file():
            raise InputError(f"--deb {args.deb} does not exist; leave it out to have it fetched by apt-get")
        deb = args.deb or fetch_package(args.package, args.output.parent)
        rows = convert(deb, args.package, args.output, args.end)
        near = list_near(args.output, rows)
        left_out = Counter(str(r["left_out"]) for r in rows if "left_out" in r)
        told = ", ".join(f"{count} {why}" for why, count in sorted(left_out.items())) or "none"
        tqdm.write(f"{args.output}: {len(rows) - left_out.total()} pictures, {near} pairs nearly the same")
        tqdm.write(f"left out: {told}; sources.jsonl says which")


if __name__ == "__main__":
    main()
