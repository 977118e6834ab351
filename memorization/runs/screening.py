"""A screen: D at T = 1 of the prompts of a data set of any length, at one UNet evaluation an image.

Prompts are streamed, encoded in batches and measured at noise that all of them share. What is finished lies in one
Parquet file for every `shard_size` places of the data set, whose names are all that a restart has to read.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import diffusers.utils.logging
import numpy as np
import torch
import transformers.utils.logging
from tqdm import tqdm

from memorization.data.sources import whole_words
from memorization.data.streams import Prompt, PromptStream, open_stream
from memorization.errors import InputError, input_errors, warn
from memorization.evaluation.screened import screen_table
from memorization.files.columns import ColumnParts, Part
from memorization.files.config import former_settings, versions, write_config
from memorization.files.layout import RunFiles
from memorization.files.whole import WAY_OUT, FolderLock
from memorization.models.encoding import count_truncated, encode_batch
from memorization.ordinary import random_prompt
from memorization.runs.contents import run_contents
from memorization.runs.first_step import look_at_first_step, refuse_blind_exit
from memorization.runs.models import open_model
from memorization.runs.settings import SHARED_SEEDS, RunSettings, from_arguments, with_guidance
from memorization.runs.shared_noise import SharedNoise
from memorization.runs.workers import BackgroundWriter, Processes
from optim_utils import text_magnitude

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

# What a screen does not give; other commands do.
NOT_USED = (
    *("attn_scores", "early_exit", "scores", "base_model_id", "calibration", "store_all_tokens", "store_maps"),
    *("threshold_file", "controls", "with_tracking"),
)


@dataclass(frozen=True)
class ScreenSettings:
    """What a screen is asked for, by the names of the command line."""

    run: RunSettings
    shard_size: int

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "ScreenSettings":
        """
        Raises:
            InputError: one line per combination that means nothing, the first found.
        """
        unused = next((name for name in NOT_USED if getattr(args, name)), None)
        if unused is not None:
            raise InputError(f"--screen gives D at T = 1 and nothing else: leave out --{unused}")
        if args.seed_mode != SHARED_SEEDS:
            raise InputError("--screen measures all prompts at the same noise: add --seed_mode shared")
        if args.end is not None and args.start >= args.end:
            raise InputError(f"--start {args.start} must be smaller than --end {args.end}")
        if args.dataset == "random" and args.end is None:
            raise InputError("--dataset random has no end: say by --end how many prompts to screen")
        return from_arguments(cls, args, run=from_arguments(RunSettings, args))

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.run.output_dir, f"{self.run.run_name}_screen")

    @property
    def kept(self) -> dict[str, object]:
        """What decides the numbers besides the prompts and the model, and who shares a UNet call."""
        return {"early_exit": 1, "start": self.run.start, "shard_size": self.shard_size}


@contextmanager
def open_screen(settings: ScreenSettings, pipe: "DenoisingPipeline | None" = None) -> Iterator["Screen"]:
    """The screen of a script's settings, in this process's place among several; keeps a second one of its name out.

    Args:
        pipe: a loaded pipeline to use instead of loading the settings' model.

    Raises:
        InputError: one line per fault in what the user gave.
    """
    run, files = settings.run, settings.files
    with Processes(run.device) as processes, ExitStack() as opened:
        with processes.main_first():  # which fetches from the hub and begins the files
            if run.dataset != "random":  # a data set that is none is told of before the model is loaded
                open_stream(run.dataset, run.prompt_key, run.clean_prompts).take(1)
            with input_errors():
                loaded = open_model(run, processes.device, pipe)
                loaded.initial_latents([0], run.image_length)
            settings = replace(settings, run=with_guidance(run, loaded))
            run = settings.run
            is_blind = look_at_first_step(loaded, run.num_inference_steps, say=processes.is_main)
            refuse_blind_exit(is_blind, 1)
            contents = run_contents(loaded, pipe is not None, run.dataset, {})
            parts = ColumnParts(files.column_parts, run.num_images_per_prompt)
            if processes.is_main:
                opened.callback(FolderLock(parts.folder).release)
                chosen = run.identity | settings.kept | {"dtype": str(loaded.denoiser.dtype)} | contents
                begin_files(files, parts, json.loads(json.dumps(chosen)), run.overwrite)
        screen = Screen(settings, processes, loaded, parts)
        opened.callback(screen.writer.close)
        opened.callback(screen.bar.close)
        yield screen


def begin_files(files: RunFiles, parts: ColumnParts, chosen: Mapping[str, object], overwrite: bool) -> None:
    """Write the settings, or compare them with those of the parts that are there.

    Raises:
        InputError: if those are of other settings.
    """
    if overwrite:
        files.columns.unlink(missing_ok=True)
        parts.clear()
    elif files.config.exists():
        former_settings(files.config, chosen, files.columns)
        return
    elif files.columns.exists() or parts.finished():
        raise InputError(f"{files.columns} has no {files.config.name} that says how it was made; {WAY_OUT}")
    write_config(files.config, chosen, versions())


class Screen:
    """What goes through the prompts, and what it has come by.

    Attributes:
        noise: what all prompts are measured at.
        parts: the finished ones.
        covered: every part of the data set that was come by, of whichever process.
        num_truncated: prompts that are longer than the model reads.
        num_lacking: places of the data set without a prompt, such as links without a caption.
        num_faulty: prompts that gave NaN or infinity, and have no row.
    """

    def __init__(self, settings: ScreenSettings, processes: Processes, pipe: "DenoisingPipeline", parts: ColumnParts):
        self.settings, self.run, self.processes, self.pipe, self.parts = settings, settings.run, processes, pipe, parts
        self.noise = SharedNoise(pipe, settings.run)
        self.writer = BackgroundWriter(self.noise.latents.device)
        self.covered: list[Part] = []
        self.num_truncated = self.num_lacking = self.num_faulty = 0
        total = None if self.run.end is None else self.run.end - self.run.start
        self.bar = tqdm(total=total, desc="screen", unit="prompt", disable=not processes.is_main)

    def open_stream(self) -> PromptStream:
        """The prompts from --start on.

        Raises:
            InputError: if there are none.
        """
        run = self.run
        words = whole_words(self.pipe.tokenizer) if run.dataset == "random" else []
        stream = open_stream(run.dataset, run.prompt_key, run.clean_prompts, lambda rng: random_prompt(words, rng))
        if stream.skip(run.start) < run.start:
            raise InputError(f"{run.dataset} has no prompts from --start {run.start} on: it has {stream.position}")
        return stream

    def groups(self) -> Iterator[tuple[Part, list[Prompt]]]:
        """This process's parts that are not finished, with their prompts.

        They are cut by position, so that who shares a UNet call, and with it the rounding of the results, depends
        neither on what is finished already nor on the number of processes. At the end the writer is waited for.

        Raises:
            Whatever the writing raised, or InputError where a place of the data set holds no prompt.
        """
        finished, stream, end = self.parts.finished(), self.open_stream(), self.run.end
        while end is None or stream.position < end:
            first, wanted = stream.position, self.settings.shard_size
            wanted = wanted if end is None else min(wanted, end - first)
            is_mine = len(self.covered) % self.processes.count == self.processes.rank
            prompts = None
            if is_mine and (first, first + wanted) not in finished:
                prompts = stream.take(wanted)
            else:
                stream.skip(wanted)
            part = (first, stream.position)
            if part[1] > first:
                self.covered.append(part)
                if prompts is None or part in finished:
                    self.bar.update(part[1] - first)
                else:
                    found = [p for p in prompts if p is not None]
                    self.num_lacking += len(prompts) - len(found)
                    yield part, found
            if part[1] < first + wanted:
                break
        self.writer.wait()

    @torch.no_grad()
    def scores(self, prompts: list[Prompt]) -> torch.Tensor:
        """D of the first step, float32 (prompts, images), on the model's device; nothing here waits for it.

        As many prompts as make a UNet call are encoded together, and share one for each noise.
        """
        found, size = [], self.run.batch_size
        for start in range(0, len(prompts), size):
            words = [text for _, text in prompts[start : start + size]]
            text = encode_batch(self.pipe, words)
            found.append(torch.stack([self.magnitudes(k, text) for k in range(len(self.noise.latents))], 1))
            self.num_truncated += count_truncated(self.pipe, words)
            self.bar.update(len(words))
        return torch.cat(found) if found else torch.empty(0, len(self.noise.latents))

    def magnitudes(self, k: int, text: torch.Tensor) -> torch.Tensor:
        """D of image k of some prompts, float32 (prompts,), of their features (prompts, rows, dim)."""
        latents, uncond = (x[k : k + 1].expand(len(text), -1, -1, -1) for x in (self.noise.latents, self.noise.uncond))
        return text_magnitude(self.pipe, latents, self.noise.t, text, uncond)

    def write(self, part: Part, prompts: list[Prompt], scores: torch.Tensor) -> None:
        """Write a part; prompts that gave NaN get no row.

        Raises:
            InputError: if all of them did.
        """
        values = scores.cpu().numpy()
        is_finite = np.isfinite(values).all(1)
        if not is_finite.all():
            wrong = [prompt for prompt, is_right in zip(prompts, is_finite, strict=True) if not is_right]
            told = f"D of {len(wrong)} of {len(prompts)} prompts is NaN or infinite, the first is prompt {wrong[0][0]}"
            if not is_finite.any():
                raise InputError(f"{told}; use --dtype float32")
            warn(f"{told}; they get no row, the others go on")
            self.num_faulty += len(wrong)
            prompts = [prompt for prompt, is_right in zip(prompts, is_finite, strict=True) if is_right]
        self.parts.write(part, prompts, values[is_finite])

    def finish(self) -> bool:
        """Bring the parts of all processes together; False for a process that has nothing more to do.

        Raises:
            InputError: if a part of another process is not to be seen.
        """
        if self.num_truncated:
            warn(f"{self.num_truncated} prompts are longer than the model reads, and were cut off")
        if self.num_lacking:
            warn(f"{self.num_lacking} places of {self.run.dataset} hold no prompt, and have no row")
        self.processes.wait()
        if not self.processes.is_main:
            return False
        finished = self.parts.finished()
        missing = next((part for part in self.covered if part not in finished), None)
        if missing is not None:
            raise InputError(
                f"{self.parts.path(missing)} of another process is not there, which has warned above or was ended; the "
                "same command again goes on"
            )
        self.parts.merge(self.settings.files.columns, self.covered)
        return True

    def refuse_faulty(self) -> None:
        """At the end, when all that could be done is done.

        Raises:
            InputError: if prompts have no row, because they gave NaN.
        """
        if self.num_faulty:
            raise InputError(
                f"{self.num_faulty} prompts have no row, as their D is NaN or infinite; use --dtype float32"
            )


def screen_prompts(settings: ScreenSettings, pipe: "DenoisingPipeline | None" = None) -> None:
    """Go through the prompts that are left, and write the file of all of them; see `open_screen`."""
    with open_screen(settings, pipe) as screen, quiet_encoding():
        for part, prompts in screen.groups():
            scores = screen.scores(prompts)
            screen.writer.submit(screen.write, part, prompts, scores)
        if screen.finish():
            print(screen_table(settings.files.columns).markdown())
            print(settings.files.columns)
        screen.refuse_faulty()


@contextmanager
def quiet_encoding() -> Iterator[None]:
    """No line for every prompt that is cut off."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, before, strict=True):
            library.set_verbosity(level)
