"""A run of either script: its model, prompts, seeds and results file, opened together."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from memorization.data.prompts import PromptRecord, load_prompts
from memorization.data.sources import token_texts, whole_words
from memorization.errors import InputError, input_errors, warn
from memorization.files.json_lines import ResultsFile
from memorization.files.layout import RunFiles
from memorization.files.whole import FolderLock, make_folder
from memorization.models.devices import is_offloaded
from memorization.observation import Inputs, make_inputs
from memorization.ordinary import random_prompt
from memorization.rows import find_fault, not_finite, told_of_faulty
from memorization.runs.contents import model_contents, run_contents, warn_of_former_rows
from memorization.runs.first_step import look_at_first_step
from memorization.runs.images import RunImages
from memorization.runs.models import open_model
from memorization.runs.settings import ORIGINAL_SEEDS, RunSettings, ScriptSettings, with_guidance
from memorization.runs.tracking import Tracking
from memorization.runs.workers import BackgroundWriter, Processes

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

Group = Sequence[PromptRecord]


class Session:
    """Everything a script opens before its loop. A context manager: leaving it lets go of the run's name.

    Attributes:
        settings: of the run, with the model's usual guidance scale where none was given.
        processes: this process's place among several.
        files: where the run's files lie.
        pipe, device: the loaded pipeline, and where it computes.
        records: the prompts, in order; those in `results.done` have a row.
        results: the `ResultsFile` the rows go to.
        images: the run's image files.
        writer: runs what can go on beside the next batch.
        layers: cross-attention layers that bright-ending masks are read from.
        contents: of the model, the prompts and the files that were given, and the scheduler's values.
        is_blind: whether the first step shows nothing of the prompt, as under zero terminal SNR.
        faulty: column of NaN or infinity by index of a prompt that has no row for it.
    """

    def __init__(
        self,
        settings: RunSettings,
        processes: Processes,
        files: RunFiles,
        method_settings: Mapping[str, object],
        columns: Sequence[str] = (),
        pipe: "DenoisingPipeline | None" = None,
        given_files: Mapping[str, Path | None] = MappingProxyType({}),
    ):
        """
        Args:
            method_settings: what decides the numbers besides `settings.identity`.
            columns: what the script reads back from its rows.
            given_files: files whose content decides the numbers, by the setting that names them.
            pipe: a loaded pipeline to use instead of loading `settings.model_id`.

        Raises:
            InputError: one line per fault in what the user gave.
        """
        self.settings, self.processes, self.files = settings, processes, files
        self.started, self.num_finished = time.time(), 0
        self.faulty: dict[int, str] = {}
        self.lock: FolderLock | None = None
        self.tracking: Tracking | None = None
        self.writer: BackgroundWriter | None = None
        self.bar: tqdm | None = None
        try:
            with processes.main_first():  # which fetches from the hub and merges what an earlier call left
                for folder in (files.images, files.attention):
                    make_folder(folder)
                # `random` draws its words from the model's tokenizer; other prompts are looked at before it is loaded.
                early = None if settings.dataset == "random" else self.load_records()
                with input_errors():
                    self.pipe = open_model(settings, processes.device, pipe)
                    self.pipe.grad_batch_size = settings.grad_batch_size
                    self.settings = with_guidance(settings, self.pipe)
                    self.layers = self.pipe.mask_layers
                    first = self.pipe.initial_latents([0], settings.image_length)
                    self.latent_size, self.device = first.shape[-2:], first.device
                self.is_blind = look_at_first_step(self.pipe, settings.num_inference_steps, say=processes.is_main)
                self.records = early or self.load_records()
                self.contents = run_contents(self.pipe, pipe is not None, settings.dataset, given_files)
                self.lock = FolderLock(files.images) if processes.is_main else None
                self.results = self.open_results(method_settings, columns)
                self.tracking = self.open_tracking() if settings.with_tracking else None
                self.writer = BackgroundWriter(self.device, at_once=is_offloaded(self.pipe))
                self.warn_truncated()
        except BaseException:
            self.__exit__()
            raise

    def load_records(self) -> list[PromptRecord]:
        s = self.settings
        return load_prompts(s.dataset, s.start, s.end, s.prompt_key, s.clean_prompts, self.random_prompt)

    def random_prompt(self, rng: Random) -> str:
        return random_prompt(self.random_words, rng)

    @cached_property
    def random_words(self) -> list[str]:
        """What random prompts are made of."""
        return whole_words(self.pipe.tokenizer)

    @cached_property
    def token_texts(self) -> list[str]:
        """What is added to prompts at random."""
        return token_texts(self.pipe.tokenizer)

    def open_results(self, method_settings: Mapping[str, object], columns: Sequence[str]) -> ResultsFile:
        dtype = {"dtype": str(self.pipe.denoiser.dtype)}
        chosen = self.settings.identity | dict(method_settings) | dtype | self.contents
        check = partial(find_fault, needed=("seeds", "prompt", *columns))
        results = ResultsFile(self.files.rows, chosen, self.settings.overwrite, self.processes.shard, check=check)
        if self.processes.is_main:
            results.merge()
            warn_of_former_rows(results, self.pipe)
        return results

    def open_tracking(self) -> Tracking:
        with input_errors():
            return Tracking(self.settings.tracker, self.files.rows_name, self.files.rows.parent, self.results.settings)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.tracking is not None:  # it may hold lines that are not written yet
            self.tracking.finish()
        if self.lock is not None:
            self.lock.release()

    def warn_truncated(self) -> None:
        for record in self.records if self.processes.is_main else ():
            cut = "" if record.index in self.results.done else self.pipe.truncated_text(record.prompt)
            if cut:
                tqdm.write(f"warning: prompt {record.index} is longer than the model reads; cut off: {cut!r}")

    def seeds(self, record: PromptRecord) -> list[int]:
        return self.settings.seeds(record.index)

    def latents(self, record: PromptRecord) -> torch.Tensor:
        """Starting noise of the prompt's images."""
        joint = self.settings.gen_seed + record.index if self.settings.seed_mode == ORIGINAL_SEEDS else None
        return self.pipe.initial_latents(self.seeds(record), self.settings.image_length, joint)

    def inputs(self, group: Group, text: torch.Tensor | None = None, masks: torch.Tensor | None = None) -> Inputs:
        """What the images of some prompts are generated from.

        Args:
            text: features of each prompt, (prompts, tokens, dim); by default those of its words.
            masks: of an earlier pass, (images, 1, height, width).
        """
        latents = torch.cat([self.latents(r) for r in group])
        return make_inputs(self.pipe, [r.prompt for r in group], [self.seeds(r) for r in group], latents, text, masks)

    @property
    def mask_settings(self) -> dict[str, object]:
        """What a bright-ending mask depends on besides prompt and seed."""
        return self.settings.mask_settings(self.layers) | model_contents(self.contents)

    @cached_property
    def images(self) -> RunImages:
        return RunImages(self.files, self.image_keys(), self.settings.store_img_png, self.settings.store_img_npz)

    def image_keys(self) -> list[tuple[int, int]]:
        return [(r.index, seed) for r in self.records for seed in self.seeds(r)]

    def groups(self, name: str) -> Iterator[Group]:
        """This process's groups of prompts that share UNet calls, under a progress bar; what is finished is left out.

        They are cut from all prompts by position, as many as fit into --batch_size images, so that who shares a call,
        and with it the rounding of the results, depends neither on what is finished already nor on the number of
        processes. At the end the writer is waited for.

        Raises:
            Whatever the writing raised.
        """
        assert self.writer is not None
        with self.processes.main_first():
            if self.processes.is_main:
                self.results.begin()
        groups = self.unfinished_groups()
        mine = sum(len(g) for g in groups)
        is_alone = self.processes.count == 1
        done = len(self.records) - mine if is_alone else 0
        name = name if is_alone else f"{name}, process 1 of {self.processes.count}"
        hidden = not self.processes.is_main
        with tqdm(total=done + mine, initial=done, desc=name, unit="prompt", disable=hidden) as self.bar:
            yield from groups
            self.writer.wait()

    def unfinished_groups(self) -> Sequence[Group]:
        size = max(1, self.settings.batch_size // self.settings.num_images_per_prompt)
        groups = [self.records[k : k + size] for k in range(0, len(self.records), size)]
        return self.processes.share([g for g in groups if any(r.index not in self.results.done for r in g)])

    def is_finished(self, record: PromptRecord) -> bool:
        return record.index in self.results.done

    def add_rows(self, rows: Sequence[Mapping]) -> None:
        """Append the rows of finished prompts; with --with_tracking log their means and the pace as well.

        A row that holds NaN is left out and named: one prompt does not stop the others.
        """
        new = [row for row in rows if row["index"] not in self.results.done and not self.is_faulty(row)]
        before = len(self.results.done)
        self.results.add(*new)
        self.num_finished += len(new)
        pace = self.num_finished / (time.time() - self.started)
        for step, row in enumerate(new, before + 1):
            means = {k: v for k, v in row.items() if k.startswith("mean_")}
            self.track({"index": row["index"], "prompts_per_second": pace, **means}, step)
        if self.bar is not None:
            self.bar.update(len(rows))

    def is_faulty(self, row: Mapping) -> bool:
        if (column := not_finite(row)) is not None:
            self.leave_out(row["index"], column, f"prompt {row['index']}: {column} is NaN or infinite")
        return column is not None

    def leave_out(self, index: int, column: str, told: str) -> None:
        self.faulty[index] = column
        warn(f"{told}; it gets no row, the others go on")

    def write_beside(self, job: Callable[..., object], *args: object) -> None:
        """Do what can be done while the next batch is computed.

        Raises:
            Whatever the job before raised.
        """
        assert self.writer is not None
        self.writer.submit(job, *args)

    def track(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers with --with_tracking, at the count of finished prompts."""
        if self.tracking is not None:
            self.tracking.log(values, step=len(self.results.done) if step is None else step)

    def finish_rows(self) -> bool:
        """Merge the rows of all processes; False for a process that has nothing more to do.

        Prompts that gave NaN are left out of what follows.

        Raises:
            InputError: if rows of another process are not to be seen, as on a slow network file system, or every
                prompt gave NaN.
        """
        self.processes.wait()
        if not self.processes.is_main:
            return False
        self.results.merge()
        lacking = [r.index for r in self.records if r.index not in self.results.done]
        missing = next((index for index in lacking if index not in self.faulty), None)
        if missing is not None:
            raise InputError(
                f"{self.results.path} lacks prompt {missing}, of another process, which has warned above or was ended; "
                "the same command again goes on"
            )
        if len(lacking) == len(self.records):
            self.refuse_faulty()
        self.records = [r for r in self.records if r.index not in self.faulty]
        self.images.keys = self.image_keys()
        return True

    def refuse_faulty(self) -> None:
        """At the end of a run, when all that could be done is done.

        Raises:
            InputError: if prompts have no row, because they gave NaN.
        """
        if self.faulty:
            raise InputError(told_of_faulty(self.faulty))

    def rows(self) -> Iterator[dict]:
        """Yield this run's rows in the order of its prompts, after `finish_rows`."""
        return (self.results.row(r.index) for r in self.records)


@contextmanager
def open_session(
    settings: ScriptSettings,
    columns: Sequence[str],
    pipe: "DenoisingPipeline | None" = None,
    processes: Processes | None = None,
) -> Iterator[Session]:
    """The session of a script's settings, in this process's place among several.

    Args:
        columns: what the script reads back from its rows.
        pipe: a loaded pipeline to use instead of loading the settings' model.
        processes: of runs that follow one another: all wait at the end of each until its files are whole.

    Raises:
        InputError: one line per fault in what the user gave.
    """
    with nullcontext(processes) if processes is not None else Processes(settings.run.device) as workers:
        s = settings
        with Session(s.run, workers, s.files, s.kept, columns, pipe, s.given_files) as session:
            yield session
        if processes is not None:
            processes.wait()
