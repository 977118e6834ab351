"""A run of either script: its model, prompts, seeds and output files, opened together."""

import time
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from attn_utils import down_cross_layers
from data_utils import load_prompts
from local_sd_pipeline import classifier_free_guidance, load_pipeline
from prompt_aug import whole_words
from run_utils import (
    InputError,
    ResultsFile,
    image_seed,
    input_errors,
    make_folder,
    save_png,
    stream_images_npz,
)
from trackers import Tracking

SETTINGS = (
    "dataset", "prompt_key", "clean_prompts", "model_id", "unet_id", "gen_seed", "seed_mode", "num_images_per_prompt",
    "image_length", "guidance_scale", "num_inference_steps",
)  # fmt: skip
RANDOM_PROMPT_WORDS = 12


class Session:
    """Everything a script opens before its loop.

    Attributes:
        pipe: the loaded pipeline.
        records: the prompts, in order; `todo` are those without a row yet.
        results: the `ResultsFile` the rows go to.
        layers: cross-attention layers that bright-ending masks are read from.
    """

    def __init__(self, args, run_key, rows_name, settings=()):
        """
        Args:
            args: parsed arguments of `common_parser`.
            run_key: names the image folder.
            rows_name: stem of the rows in det_outputs.
            settings: names of further arguments that decide the numbers.

        Raises:
            InputError: one line per fault in what the user gave.
        """
        self.args = args
        self.images = args.output_dir / "images_data" / run_key
        self.attention = args.output_dir / "attn_data"
        for folder in (self.images, self.attention):
            make_folder(folder)
        self.random_words = ()
        # `random` draws its words from the model's tokenizer, every other set is checked before loading.
        early = None if args.dataset == "random" else self.load_records()
        with input_errors():
            self.pipe = load_pipeline(args.model_id, args.unet_id, args.device, args.dtype)
            self.layers = down_cross_layers(self.pipe.unet)
            self.pipe.initial_latents([0], args.image_length)
        self.random_words = whole_words(self.pipe.tokenizer)
        self.records = early or self.load_records()
        chosen = {name: getattr(args, name) for name in (*SETTINGS, *settings)}
        chosen = {k: str(v) if isinstance(v, Path) else v for k, v in chosen.items()}
        chosen["dtype"] = str(self.pipe.unet.dtype)
        path = args.output_dir / "det_outputs" / f"{rows_name}.jsonl"
        self.results = ResultsFile(path, chosen, overwrite=args.overwrite)
        self.todo = [r for r in self.records if r.index not in self.results.done]
        self.started, self.finished = time.time(), 0
        self.tracking = self.open_tracking(rows_name) if args.with_tracking else None
        self.warn_truncated()

    def open_tracking(self, rows_name):
        with input_errors():
            return Tracking(self.args.tracker, rows_name, self.results.path.parent, self.results.settings)

    def track(self, values):
        """Log numbers with --with_tracking, at the count of finished prompts."""
        if self.tracking is not None:
            self.tracking.log(values, step=len(self.results.done))

    def load_records(self):
        args = self.args
        return load_prompts(args.dataset, args.start, args.end, args.prompt_key, args.clean_prompts, self.random_prompt)

    def random_prompt(self, rng):
        return " ".join(rng.choice(self.random_words) for _ in range(RANDOM_PROMPT_WORDS))

    def warn_truncated(self):
        for record in self.todo:
            cut = self.pipe.truncated_text(record.prompt)
            if cut:
                tqdm.write(f"warning: prompt {record.index} is longer than the model reads; cut off: {cut!r}")

    @property
    def guidance(self):
        return partial(classifier_free_guidance, guidance_scale=self.args.guidance_scale)

    @property
    def mask_settings(self):
        """What a bright-ending mask depends on besides prompt and seed."""
        args = self.args
        joint = f":{args.num_images_per_prompt}:{args.gen_seed}" if args.seed_mode == "original" else ""
        return {
            "model_id": args.model_id, "unet_id": args.unet_id, "guidance_scale": args.guidance_scale,
            "num_inference_steps": args.num_inference_steps, "image_length": args.image_length,
            "layers": self.layers, "seed_mode": args.seed_mode + joint,
        }  # fmt: skip

    def seeds(self, record):
        return [image_seed(self.args.gen_seed, record.index, k) for k in range(self.args.num_images_per_prompt)]

    def latents(self, record):
        """Starting noise of the prompt's images."""
        joint = self.args.gen_seed + record.index if self.args.seed_mode == "original" else None
        return self.pipe.initial_latents(self.seeds(record), self.args.image_length, joint)

    def groups(self):
        """Prompts that share UNet calls: as many as fit into --batch_size images."""
        size = max(1, self.args.batch_size // self.args.num_images_per_prompt)
        return [self.todo[k : k + size] for k in range(0, len(self.todo), size)]

    def end_tokens(self, record):
        return torch.full((self.args.num_images_per_prompt,), self.pipe.end_token(record.prompt))

    def png_path(self, record, seed):
        return self.images / f"{record.index}_{seed}.png"

    def save_images(self, record, images):
        for seed, image in zip(self.seeds(record), images, strict=True):
            save_png(self.png_path(record, seed), image)

    @property
    def wants_images(self):
        return self.args.store_img_png or self.args.store_img_npz

    def add_row(self, row):
        """Append a finished prompt's row; with --with_tracking log its means and the pace as well."""
        self.results.add(row)
        self.finished += 1
        pace = self.finished / (time.time() - self.started)
        means = {k: v for k, v in row.items() if k.startswith("mean_")}
        self.track({"index": row["index"], "prompts_per_second": pace, **means})

    def close(self):
        """End the tracker, which may hold lines that are not written yet."""
        if self.tracking is not None:
            self.tracking.finish()

    def images_are_kept(self):
        """Whether every image is there as PNG; of a finished run without --store_img_png none is."""
        return all(self.png_path(r, s).exists() for r in self.records for s in self.seeds(r))

    def rows(self):
        """This run's rows in the order of its prompts."""
        by_index = {row["index"]: row for row in self.results.rows()}
        return [by_index[r.index] for r in self.records]

    def finish_images(self, npz_path):
        """Collect the PNGs into an npz and drop what was not asked for.

        Raises:
            InputError: if a PNG of a finished row is gone.
        """
        if not self.wants_images:
            return None
        paths = [self.png_path(r, s) for r in self.records for s in self.seeds(r)]
        missing = next((p for p in paths if not p.exists()), None)
        if missing is not None and (self.args.store_img_png or not npz_path.exists()):
            raise InputError(f"{missing} is missing although its row is finished; rerun with --overwrite")
        if self.args.store_img_npz and missing is None:
            stream_images_npz(npz_path, paths)
        if not self.args.store_img_png:
            for path in paths:
                path.unlink(missing_ok=True)
        return npz_path


def chunked(tensors, size):
    """Split tensors of equal length, given as a dict, into dicts of at most `size` rows."""
    length = len(next(iter(tensors.values())))
    return [{k: v[i : i + size] for k, v in tensors.items()} for i in range(0, length, size)]
