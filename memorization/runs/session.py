"""A run of either script: its model, prompts, seeds and output files, opened together."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from attn_utils import down_cross_layers
from local_sd_pipeline import classifier_free_guidance
from memorization.data.prompts import load_prompts
from memorization.data.sources import whole_words
from memorization.errors import InputError, input_errors
from memorization.files.json_lines import ResultsFile
from memorization.files.npz import Streamed, write_npz
from memorization.files.whole import FolderLock, make_folder, read_png, save_png
from memorization.models.stable_diffusion import load_pipeline
from memorization.runs.images import holds_images, read_equal
from memorization.runs.tracking import Tracking
from memorization.runs.workers import BackgroundWriter
from memorization.seeds import image_seed

SETTINGS = (
    "dataset", "prompt_key", "clean_prompts", "model_id", "unet_id", "gen_seed", "seed_mode", "num_images_per_prompt",
    "image_length", "guidance_scale", "num_inference_steps",
)  # fmt: skip


RANDOM_PROMPT_WORDS = 12


class Session:
    """Everything a script opens before its loop. A context manager: leaving it lets go of the run's name.

    Attributes:
        processes: this process's place among several.
        pipe: the loaded pipeline.
        records: the prompts, in order; those in `results.done` have a row.
        results: the `ResultsFile` the rows go to.
        writer: runs what can go on beside the next batch.
        layers: cross-attention layers that bright-ending masks are read from.
        latent_size: height and width of the latents.
    """

    def __init__(self, args, processes, run_key, rows_name, settings=(), columns=()):
        """
        Args:
            args: parsed arguments of `common_parser`.
            run_key: names the image folder.
            rows_name: stem of the rows in det_outputs.
            settings: names of further arguments that decide the numbers.
            columns: what the script reads back from its rows.

        Raises:
            InputError: one line per fault in what the user gave.
        """
        self.args, self.processes = args, processes
        self.images = args.output_dir / "images_data" / run_key
        self.attention = args.output_dir / "attn_data"
        self.lock = self.tracking = self.writer = None
        try:
            with processes.main_first():  # which fetches from the hub and merges what an earlier call left
                self.open(rows_name, settings, columns)
        except BaseException:
            self.__exit__()
            raise

    def open(self, rows_name, settings, columns):
        args, is_main = self.args, self.processes.is_main
        for folder in (self.images, self.attention):
            make_folder(folder)
        self.random_words = ()
        # `random` draws its words from the model's tokenizer, every other set is checked before loading.
        early = None if args.dataset == "random" else self.load_records()
        self.pipe = self.open_pipeline()
        self.random_words = whole_words(self.pipe.tokenizer)
        self.records = early or self.load_records()
        chosen = {name: getattr(args, name) for name in (*SETTINGS, *settings)}
        chosen = {k: str(v) if isinstance(v, Path) else v for k, v in chosen.items()}
        chosen["dtype"] = str(self.pipe.unet.dtype)
        self.lock = FolderLock(self.images) if is_main else None
        path = args.output_dir / "det_outputs" / f"{rows_name}.jsonl"
        self.results = ResultsFile(
            path, chosen, overwrite=args.overwrite, shard=self.processes.shard, columns=("seeds", "prompt", *columns)
        )
        if is_main:
            self.results.merge()
        self.started, self.finished = time.time(), 0
        self.tracking = self.open_tracking(rows_name) if args.with_tracking else None
        self.writer = BackgroundWriter(self.pipe.device)
        self.warn_truncated()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.writer is not None:
            self.writer.close()
        if self.tracking is not None:  # it may hold lines that are not written yet
            self.tracking.finish()
        if self.lock is not None:
            self.lock.release()

    def load(self):
        args = self.args
        return load_pipeline(
            args.model_id, args.unet_id, self.processes.device, args.dtype, args.channels_last, args.compile
        )

    def open_pipeline(self):
        with input_errors():
            pipe = self.load()
            self.layers = down_cross_layers(pipe.unet)
            self.latent_size = pipe.initial_latents([0], self.args.image_length).shape[-2:]
            pipe.scheduler.set_timesteps(self.args.num_inference_steps)
        return pipe

    def open_tracking(self, rows_name):
        with input_errors():
            return Tracking(self.args.tracker, rows_name, self.results.path.parent, self.results.settings)

    def track(self, values, step=None):
        """Log numbers with --with_tracking, at the count of finished prompts."""
        if self.tracking is not None:
            self.tracking.log(values, step=len(self.results.done) if step is None else step)

    def load_records(self):
        args = self.args
        return load_prompts(args.dataset, args.start, args.end, args.prompt_key, args.clean_prompts, self.random_prompt)

    def random_prompt(self, rng):
        return " ".join(rng.choice(self.random_words) for _ in range(RANDOM_PROMPT_WORDS))

    def warn_truncated(self):
        for record in self.records if self.processes.is_main else ():
            cut = "" if record.index in self.results.done else self.pipe.truncated_text(record.prompt)
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
        """This process's groups of prompts that share UNet calls: as many as fit into --batch_size images.

        They are cut from all prompts by position, so that who shares a call, and with it the rounding of the
        results, depends neither on what is finished already nor on the number of processes.
        """
        size = max(1, self.args.batch_size // self.args.num_images_per_prompt)
        groups = [self.records[k : k + size] for k in range(0, len(self.records), size)]
        return self.processes.share([g for g in groups if any(r.index not in self.results.done for r in g)])

    def run_groups(self, name, run_group):
        """Call `run_group` for each group, under a progress bar; it hands its results to `writer`.

        Raises:
            Whatever it or the writing raised.
        """
        with self.processes.main_first():
            if self.processes.is_main:
                self.results.begin()
        groups = self.groups()
        mine = sum(len(g) for g in groups)
        done = len(self.records) - mine if self.processes.count == 1 else 0
        name = name if self.processes.count == 1 else f"{name}, process 1 of {self.processes.count}"
        hidden = not self.processes.is_main
        with tqdm(total=done + mine, initial=done, desc=name, unit="prompt", disable=hidden) as self.bar:
            for group in groups:
                run_group(group)
            self.writer.wait()

    def finish_rows(self):
        """Merge the rows of all processes; False for a process that has nothing more to do.

        Raises:
            InputError: if rows of another process are not to be seen, as on a slow network file system.
        """
        self.processes.wait()
        if not self.processes.is_main:
            return False
        self.results.merge()
        missing = next((r.index for r in self.records if r.index not in self.results.done), None)
        if missing is not None:
            raise InputError(f"{self.results.path} lacks prompt {missing}; the same command again goes on")
        return True

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

    def add_rows(self, rows):
        """Append the rows of finished prompts; with --with_tracking log their means and the pace as well."""
        new = [row for row in rows if row["index"] not in self.results.done]
        before = len(self.results.done)
        self.results.add(*new)
        self.finished += len(new)
        pace = self.finished / (time.time() - self.started)
        for step, row in enumerate(new, before + 1):
            means = {k: v for k, v in row.items() if k.startswith("mean_")}
            self.track({"index": row["index"], "prompts_per_second": pace, **means}, step)
        self.bar.update(len(rows))

    def images_are_kept(self):
        """Whether every image is there as PNG; of a finished run without --store_img_png none is."""
        return all(path.exists() for path in self.png_paths())

    def png_paths(self):
        return (self.png_path(r, s) for r in self.records for s in self.seeds(r))

    def rows(self):
        """Yield this run's rows in the order of its prompts, after `finish_rows`."""
        return (self.results.row(r.index) for r in self.records)

    def finish_images(self, npz_path):
        """Collect the PNGs into an npz, one at a time, and drop what was not asked for.

        Raises:
            InputError: if a PNG of a finished row is gone.
        """
        if not self.wants_images:
            return None
        missing = next((p for p in self.png_paths() if not p.exists()), None)
        count = len(self.records) * self.args.num_images_per_prompt
        if missing is not None and (self.args.store_img_png or not holds_images(npz_path, count)):
            raise InputError(f"{missing} is missing although its row is finished; rerun with --overwrite")
        if self.args.store_img_npz and missing is None:
            shape = read_png(next(self.png_paths())).shape
            write_npz(npz_path, {"images": Streamed((count, *shape), np.uint8, read_equal(self.png_paths(), shape))})
        if not self.args.store_img_png:
            for path in self.png_paths():
                path.unlink(missing_ok=True)
        return npz_path
