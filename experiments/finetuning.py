"""What duplication, captions and training-time mitigations do: the bundled model fine-tuned on pictures new to it.

    python -m experiments.finetuning                     all cells, three seeds each
    python -m experiments.finetuning --cells "no duplication" "random_tokens 0.1"

Half of the pictures of planted_control_groundtruth are there ten times; which, the seed says. Each cell is trained,
generates its captions and ordinary prompts, and is compared with the pictures by copy descriptor and by pixels. A cell
that is measured is not made again; one that was cut off goes on where it was, and one that fails leaves the others
alone. What is measured so far in --output, of so many seeds, goes to experiments/results/finetuning.json after each
cell, and `python -m tools.write_docs` puts it into docs/finetuning.md.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CLIPTokenizer

from experiments.finetuning_table import REFERENCE, RESULTS, Measured, entries, finetuning_table
from experiments.protocol import THREADS
from experiments.runs import Entry, Runner, make_each, module, refuse_failed, script
from memorization.bundled import CLIP, COPY_DESCRIPTOR, bundled_name, find_bundled
from memorization.data.pictures import read_image
from memorization.data.prompts import load_prompts
from memorization.data.sources import token_texts
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.files.whole import make_folder, write_text
from memorization.finetuning.base import TRAINING_MITIGATIONS
from memorization.finetuning.examples import Example, read_examples
from memorization.finetuning.saving import loading_options
from memorization.finetuning.settings import FinetuneSettings
from memorization.finished_runs import Run, read_run
from memorization.mitigations.base import PLAIN
from memorization.registry import nearest
from memorization.runs.arguments import HelpFormatter, positive_int
from memorization.similarity.descriptors import ClipSimilarity, CopyDescriptor
from memorization.similarity.pixels import resized
from memorization.tables import plain
from tools.finetune_memorize import read_settings
from tools.paraphrases.templates import template_paraphrases

CONTROL, ORDINARY = "planted_control_groundtruth", "planted_ordinary.jsonl"
NUM_CAPTIONS = 4  # of a picture, its own among them
DUPLICATED = ("--duplicates", "10", "--duplicated_share", "0.5")
BEFORE = "before"  # the cell of the model that is not fine-tuned
TRAINED, PLAIN_PROMPTS = "trained", "ordinary"  # begin the names of runs
# What a folder repeats is drawn as what is duplicated here, and has no cell of its own.
CELLS: dict[str, Sequence[str]] = {
    BEFORE: DUPLICATED,
    "no duplication": ("--duplication", "none"),
    REFERENCE: DUPLICATED,
    "image, any caption": ("--duplication", "image", *DUPLICATED),
    **{f"captions: {m}": ("--captions", m, *DUPLICATED) for m in ("in_turn", "class", "sentence", "random_tokens")},
    **{
        f"{m.name} {p:g}": ("--mitigation", f"{m.name}:{p}", *DUPLICATED)
        for m in TRAINING_MITIGATIONS.values()
        for p in (m.probability, *((0.5,) if m.probability < 1 else ()))
    },
    # D at any timestep is about 2.4 for pictures that are new to the model (of 48 samples): above 4 lie one in ten,
    # above 3 one in four. Wen et al.'s threshold for their latents, scaled to these, would leave out most of them.
    **{f"drop_above {t:g}": ("--drop_above", f"{t}", *DUPLICATED) for t in (4, 3)},
    "EMA": ("--ema_decay", "0.99", *DUPLICATED),
    "text encoder too": ("--train_text_encoder", *DUPLICATED),
    "LoRA of rank 16": ("--lora_rank", "16", "--lr", "1e-3", *DUPLICATED),
}


@dataclass(frozen=True)
class Cell:
    """One fine-tuning by one seed, and the runs that it is measured by."""

    name: str
    seed: int
    folder: Path
    argv: Sequence[str]  # of the fine-tuning
    common: Sequence[object]  # options of generation

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def measured(self) -> Path:
        return self.folder / "measured.json"

    @property
    def training(self) -> Sequence[str]:
        return module("tools.finetune_memorize", *self.argv)

    @property
    def settings(self) -> FinetuneSettings:
        return read_settings(self.argv)

    def run(self, name: str) -> Run:
        """The finished run of that name."""
        return read_run(Entry(PLAIN).rows(self.folder, name))

    def generation(self, name: str, dataset: object, images: int) -> Sequence[str]:
        """The command that generates the prompts of a data set with the model of this cell."""
        loaded = ["--model_id", self.settings.model_id] if self.name == BEFORE else loading_options(self.settings)
        head = ("--run_name", Entry(PLAIN).run_name(name), "--dataset", dataset, "--output_dir", self.folder)
        how = ("--gen_seed", self.seed, "--num_images_per_prompt", images, "--no-store_img_npz")
        return script("inference_mem", *head, *how, *loaded, *self.common)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--output", type=Path, default=Path("finetuning_output"), help="folder of all trainings and runs")
    add("--results", type=Path, default=RESULTS, help="JSON file for the numbers")
    add("--model_id", default="planted_sd", help="model that is fine-tuned")
    add("--cells", nargs="+", metavar="NAME", help=f"out of {', '.join(CELLS)}; by default all")
    add("--seeds", type=positive_int, default=3, help="of each cell")
    add("--steps", type=positive_int, default=200, help="of each fine-tuning")
    add("--batch_size", type=positive_int, default=8, help="of each step")
    add("--lr", default="2e-4", help="learning rate, where a cell says no other")
    add("--images", type=positive_int, default=2, help="of each caption that is trained on")
    add("--ordinary_images", type=positive_int, default=1, help="of each ordinary prompt")
    add("--jobs", type=positive_int, default=2, help="cells at a time; two of one thread are faster than one of two")
    add("--threads", type=positive_int, default=1, help="of the CPU for each; weights depend on it by rounding")
    add("--num_inference_steps", type=positive_int, default=25, help="DDIM steps")
    return parser


def write_pictures(folder: Path) -> None:
    """The control pictures with several captions each, as imagefolder of datasets has them."""
    lines = []
    folder.mkdir(parents=True, exist_ok=True)
    for record in load_prompts(CONTROL):
        name = f"{record.index}.png"
        shutil.copyfile(record.reference_images[0], folder / name)
        texts = template_paraphrases(record.prompt)[: NUM_CAPTIONS - 1]
        others = {f"caption{k}": text for k, text in enumerate(texts, start=1)}
        lines.append(json.dumps({"file_name": name, "text": record.prompt, "kind": record.kind, **others}))
    write_text(folder / "metadata.jsonl", "\n".join(lines) + "\n")


def how_made(args: argparse.Namespace) -> dict[str, object]:
    """What all cells have in common."""
    names = ("steps", "batch_size", "lr", "images", "ordinary_images", "num_inference_steps")
    made = {name: getattr(args, name) for name in names}
    return {"model_id": bundled_name(args.model_id), **made, "descriptor": COPY_DESCRIPTOR.name}


def cells_of(args: argparse.Namespace) -> list[Cell]:
    """Every cell by every seed, one seed after another."""
    common, cells = ("--num_inference_steps", args.num_inference_steps), []
    for seed in range(args.seeds):
        for name in CELLS:
            folder = args.output / name.replace(": ", "_").replace(" ", "_").replace(",", "") / str(seed)
            argv = ["--dataset", args.output / "pictures", "--output", folder / "model", "--seed", seed]
            argv += ["--model_id", find_bundled(args.model_id), "--steps", args.steps, "--batch_size", args.batch_size]
            argv = [str(word) for word in (*argv, "--lr", args.lr, *CELLS[name])]
            cells.append(Cell(name, seed, folder, argv, common))
    return cells


@dataclass(frozen=True)
class Rulers:
    """What images are measured with.

    Attributes:
        pictures: those that are trained on, uint8 (height, width, 3) each, in the order of the examples.
        descriptors: theirs, (pictures, dim).
    """

    copies: CopyDescriptor
    clip: ClipSimilarity
    pictures: Sequence[np.ndarray]
    descriptors: Any

    def trained(self, images: np.ndarray, k: int) -> dict[str, list[float]]:
        """Of images (images, height, width, 3) of the caption of picture k, a number each: how like a copy it is."""
        similarity = self.copies(list(images)) @ self.descriptors.T
        own = resized(self.pictures[k], (images.shape[2], images.shape[1])).astype(np.float32)
        errors = np.sqrt((((images.astype(np.float32) - own) / 255) ** 2).mean((1, 2, 3)))
        return {
            "own": similarity[:, k].tolist(),
            "nearest": similarity.amax(1).tolist(),
            "rmse": errors.tolist(),
        }


def open_rulers(pictures: Path) -> Rulers:
    """The bundled copy descriptor and CLIP, and the pictures that are trained on."""
    found = [read_image(record.reference_images[0]) for record in load_prompts(str(pictures))]
    with input_errors():
        copies, clip = CopyDescriptor(COPY_DESCRIPTOR), ClipSimilarity(str(CLIP), None, "cpu")
    return Rulers(copies, clip, found, copies(found))


def measure(cell: Cell, rulers: Rulers, examples: Sequence[Example]) -> dict[str, list[dict[str, Any]]]:
    """Every image of a cell, by prompt: against the pictures where it is of a caption of theirs, else by CLIP."""
    usual = min(example.weight for example in examples)
    trained, ordinary = cell.run(TRAINED), cell.run(PLAIN_PROMPTS)
    return {
        TRAINED: [
            {"index": row["index"], "duplicated": examples[row["index"]].weight > usual}
            | rulers.trained(trained.images(row), row["index"])
            for row in trained.rows
        ],
        PLAIN_PROMPTS: [
            {"index": row["index"], "clip": rulers.clip(ordinary.images(row), row["prompt"])} for row in ordinary.rows
        ],
    }


def make_cell(cell: Cell, args: argparse.Namespace, rulers: Rulers) -> None:
    """Train, generate and measure one cell, from where it was cut off."""
    runner = Runner(make_folder(cell.folder), environment={"HF_HUB_OFFLINE": "1", THREADS: str(args.threads)})
    if cell.name != BEFORE:
        runner.work([cell.training], f"{cell}: training")
    tokens = token_texts(CLIPTokenizer.from_pretrained(Path(cell.settings.model_id) / "tokenizer"))
    examples = read_examples(cell.settings, tokens)
    prompts = cell.folder / "prompts.jsonl"
    write_text(prompts, "".join(json.dumps({"caption": e.captions[0]}) + "\n" for e in examples))
    commands = [cell.generation(TRAINED, prompts, args.images)]
    commands.append(cell.generation(PLAIN_PROMPTS, ORDINARY, args.ordinary_images))
    runner.work(commands, f"{cell}: images")
    write_text(cell.measured, json.dumps({"how": how_made(args), **measure(cell, rulers, examples)}))


def chosen(cells: Sequence[Cell], names: Sequence[str] | None) -> list[Cell]:
    """Those that --cells names, of which without it there are all.

    Raises:
        InputError: if there is no cell of a name.
    """
    unknown = next((name for name in names or () if name not in CELLS), None)
    if unknown is not None:
        raise InputError(f"--cells has no {unknown!r}; {nearest(unknown, list(CELLS))}")
    return [cell for cell in cells if names is None or cell.name in names]


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        every = cells_of(args)
        wanted = chosen(every, args.cells)
        pictures = make_folder(args.output, "--output") / "pictures"
        write_pictures(pictures)
        keep_results(args, every)
        left, rulers = [c for c in wanted if not c.measured.exists()], open_rulers(pictures)
        make = partial(make_cell, args=args, rulers=rulers)
        failed = make_each(left, make, str, partial(keep_results, args, every), "fine-tuning", args.jobs)
        if args.results.exists():
            print(finetuning_table(json.loads(args.results.read_text(encoding="utf-8"))))
        refuse_failed(failed)


def keep_results(args: argparse.Namespace, cells: Sequence[Cell]) -> None:
    """The numbers of the cells that are measured so far, and what they were made by; nothing where there are none.

    Raises:
        InputError: if one was made otherwise.
    """
    by_name: dict[str, dict[int, Measured]] = {}
    for cell in cells:
        if cell.measured.exists():
            found = json.loads(cell.measured.read_text(encoding="utf-8"))
            if found["how"] != how_made(args):
                raise InputError(f"{cell.measured} was made with {found['how']}; choose another --output")
            by_name.setdefault(cell.name, {})[cell.seed] = found
    reference = by_name.get(REFERENCE, {})
    named = [{"cell": n, "options": list(CELLS[n])} | entries(by_name[n], reference) for n in CELLS if n in by_name]
    if named:
        write_text(args.results, json.dumps(plain({"settings": how_made(args), "cells": named}), indent=1) + "\n")


if __name__ == "__main__":
    main()
