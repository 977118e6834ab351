"""A detection run: what it was asked for, and what it writes."""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from memorization.data.prompts import PromptRecord
from memorization.detectors.base import DETECTORS
from memorization.errors import InputError, input_errors
from memorization.evaluation.controls import controls_of_run
from memorization.evaluation.decisions import Decisions
from memorization.evaluation.detection import summary
from memorization.evaluation.thresholds import Threshold
from memorization.files.layout import RunFiles
from memorization.files.maps import save_maps
from memorization.files.masks import MaskParts
from memorization.files.original_masks import save_whole_tokens
from memorization.files.whole import replacing, write_text
from memorization.finished_runs import read_run
from memorization.identity import REVISIONS
from memorization.needs import undefined_needs
from memorization.observation import Observation
from memorization.registry import revised
from memorization.runs.chosen_detectors import EVERYTHING, Abilities, ChosenDetectors, parse_names
from memorization.runs.images import decode_or_leave_out
from memorization.runs.session import Group, Session
from memorization.runs.settings import SHARED_SEEDS, USUAL_END, RunSettings, from_arguments, kept
from memorization.scores import detector_of, key_of, label

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

KEPT = ("run_version", "attn_scores", "early_exit", "scores", "calibration")  # beside the rows
COLUMNS = ("kind", "is_memorized", "text_noise_norm")  # that the script reads back


@dataclass(frozen=True)
class DetectionSettings:
    """What detection is asked for, by the names of the command line; `run` has what both scripts share."""

    run: RunSettings
    run_version: str = "ours"
    attn_scores: Path | None = None
    early_exit: int | None = None
    scores: str | None = None
    calibration: Path | None = None
    store_attn_npz: bool = True
    store_all_tokens: bool = False
    store_maps: bool = False
    threshold_file: Path | None = None
    controls: Path | None = None
    fdr: float = 0.05
    score: str = "D"
    horizon: int | None = 1

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "DetectionSettings":
        """
        Raises:
            InputError: one line per combination that means nothing, the first found.
        """
        if args.threshold_file is not None and args.controls is not None:
            raise InputError("--threshold_file and --controls both decide: give one of them")
        end = USUAL_END if args.end is None else args.end
        args = argparse.Namespace(**vars(args) | {"scores": with_deciding_score(args), "end": end})
        if args.attn_scores is not None and args.run_version == "baseline":
            raise InputError("--attn_scores is not used by --run_version baseline: add --run_version ours")
        if args.early_exit is None:
            return from_arguments(cls, args, run=from_arguments(RunSettings, args))
        refuse_early_exit(args)
        run = from_arguments(RunSettings, args, store_img_png=False, store_img_npz=False)
        return from_arguments(cls, args, run=run, store_attn_npz=False)

    @property
    def shares_first_step(self) -> bool:
        """Whether half of every image's evaluations is the same for all prompts."""
        return self.early_exit == 1 and self.run.seed_mode == SHARED_SEEDS

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.run.output_dir, f"{self.run.run_name}_{self.run_version}")

    @property
    def kept(self) -> dict[str, object]:
        """What decides the numbers besides the prompts and the model."""
        names = [] if self.scores is None else parse_names(self.scores)
        return kept(self, KEPT) | {REVISIONS: revised({name: DETECTORS[name].revision for name in names})}

    @property
    def given_files(self) -> dict[str, Path | None]:
        return {"attn_scores": self.attn_scores, "calibration": self.calibration}

    def abilities(self, pipe: "DenoisingPipeline", is_blind: bool) -> Abilities:
        """
        Args:
            is_blind: whether the first step shows nothing of the prompt.
        """
        return Abilities(
            num_inference_steps=self.run.num_inference_steps,
            early_exit=self.early_exit,
            num_images_per_prompt=self.run.num_images_per_prompt,
            has_mask=self.early_exit is None or self.attn_scores is not None,
            wants_masked=self.run_version == "ours",
            is_blind=is_blind,
            has_base=pipe.base is not None,
            undefined=undefined_needs(pipe),
        )


def with_deciding_score(args: argparse.Namespace) -> str | None:
    """What `--scores` asks for, and with it the detector whose score decides: a file that names one is asking for it.

    Raises:
        InputError: if the threshold file cannot be read.
    """
    if args.threshold_file is None and args.controls is None:
        return args.scores
    key = key_of(args.score) if args.threshold_file is None else Threshold.load(args.threshold_file).key
    known = detector_of(key)
    if known is None or known.always or args.scores == EVERYTHING:
        return args.scores
    names = args.scores.split(",") if args.scores else []
    return ",".join(dict.fromkeys([*names, known.name]))


def refuse_early_exit(args: argparse.Namespace) -> None:
    """
    Raises:
        InputError: if something is asked for that an early exit cannot give.
    """
    if args.early_exit > args.num_inference_steps:
        raise InputError(f"--early_exit {args.early_exit} is beyond --num_inference_steps {args.num_inference_steps}")
    if args.run_version == "ours" and args.attn_scores is None:
        raise InputError(
            "--early_exit ends before there is a bright-ending mask: "
            "add --run_version baseline, or masks by --attn_scores"
        )
    if args.store_maps or args.store_all_tokens:
        raise InputError("--store_maps and --store_all_tokens need the last step, which --early_exit leaves out")


def open_decider(settings: DetectionSettings) -> Threshold | Decisions | None:
    """What says memorized yes or no; None where nothing is to.

    Raises:
        InputError: if the threshold or the controls cannot be read.
    """
    if settings.threshold_file is not None:
        return Threshold.load(settings.threshold_file)
    if settings.controls is None:
        return None
    run = read_run(settings.controls)
    return Decisions(controls_of_run(run, key_of(settings.score), settings.horizon), settings.fdr)


class DetectionOutput:
    """Writes what came of groups of prompts: images, masks and maps first and the rows last."""

    def __init__(self, settings: DetectionSettings, session: Session, chosen: ChosenDetectors):
        """
        Raises:
            InputError: if the threshold or the controls are of another model or on a score that this run does not give,
                or maps of finished rows are missing.
        """
        self.settings, self.session, self.chosen, self.files = settings, session, chosen, settings.files
        self.parts = MaskParts(self.files.mask_parts, session.mask_settings)
        self.decider = open_decider(settings)
        self.refuse_other_decider()
        self.refuse_missing_maps()
        if settings.run.overwrite and session.processes.is_main:
            for folder in (self.files.mask_parts, self.files.maps):
                shutil.rmtree(folder, ignore_errors=True)

    def refuse_other_decider(self) -> None:
        path, version = self.settings.threshold_file or self.settings.controls, self.settings.run_version
        if self.decider is None:
            return
        self.decider.refuse_other_run(self.session.results.settings, path)
        warning = self.decider.warning(len(self.session.records))
        if warning is not None and self.session.processes.is_main:
            tqdm.write(warning)
        if not any(self.decider.key in d.keys for d in self.chosen.detectors):
            raise InputError(f"{path} is for {label(self.decider.key)}, which --run_version {version} does not give")

    def refuse_missing_maps(self) -> None:
        """Rows that an earlier call made without --store_maps cannot get their maps now."""
        for index in self.session.results.done if self.settings.store_maps else ():
            path = self.files.map(index)
            if not path.exists():
                raise InputError(f"{path} is missing although its row is finished; rerun with --overwrite")

    def write_group(self, group: Group, observed: Observation, evals: int) -> None:
        """Everything of some prompts; a row says that all else of its prompt is there."""
        rows = []
        for record, one in zip(group, observed.split(self.settings.run.num_images_per_prompt), strict=True):
            if not self.session.is_finished(record):
                needs_images = self.session.images.are_wanted or self.chosen.compare_images
                images = decode_or_leave_out(self.session, record, one.latents) if needs_images else None
                if needs_images and images is None:
                    continue
                self.write_files(record, one, images, evals)
                rows.append(self.make_row(record, one, images, evals))
        self.session.add_rows(rows)

    def write_files(self, record: PromptRecord, observed: Observation, images: np.ndarray | None, evals: int) -> None:
        seeds = self.session.seeds(record)
        if self.session.images.are_wanted and images is not None:
            self.session.images.save(record.index, seeds, images)
        if self.settings.store_attn_npz and observed.mask is not None:
            self.files.mask_parts.mkdir(exist_ok=True)
            if self.settings.store_all_tokens:
                self.write_whole_attention(record, observed)
            else:
                self.parts.add(record.index, record.prompt, seeds, observed.mask, evals)
        if self.settings.store_maps:
            self.write_maps(record, observed)

    def write_whole_attention(self, record: PromptRecord, observed: Observation) -> None:
        """Attention to every token, (layers, images, positions, tokens), as the original has it."""
        layers = [maps.half().cpu().numpy() for maps in observed.attention.values()]
        with replacing(self.files.whole_attention(record.index)) as temporary, temporary.open("wb") as file:
            np.save(file, np.stack(layers))

    def write_maps(self, record: PromptRecord, observed: Observation) -> None:
        save_maps(
            self.files.map(record.index),
            observed.diff_maps.cpu().numpy(),
            end={name: c.end.cpu().numpy() for name, c in observed.columns.items()},
            padding={name: c.padding.cpu().numpy() for name, c in observed.columns.items()},
            raw={f"{t}.{n}": m.cpu().numpy() for n, c in observed.columns.items() for t, m in c.raw.items()},
            found={name: maps.cpu().numpy() for name, maps in observed.found_maps.items()},
        )

    def make_row(
        self, record: PromptRecord, observed: Observation, images: np.ndarray | None, evals: int
    ) -> dict[str, object]:
        scores = {k: v.cpu() for k, v in observed.scores.items()} | self.chosen.of_images(images)
        stepped = [key for d in self.chosen.detectors if d.stepped for key in d.keys]
        return {
            "index": record.index,
            "prompt": record.prompt,
            "seeds": self.session.seeds(record),
            "is_memorized": record.is_memorized,
            "kind": record.kind,
            "uncond_noise_norm": observed.uncond_norms.tolist(),
            **{key: values.tolist() for key, values in scores.items()},
            **({"score_costs": self.chosen.costs} if self.chosen.chosen else {}),
            # Summed step by step: the order of float32 sums, and with it the last digit, is that of older runs.
            **{f"mean_{key}": scores[key].T.contiguous().mean().item() for key in stepped},
            "unet_evals_per_image": evals,
        }

    def finish(self) -> None:
        """Gather masks and images of all prompts, decide, and print the table."""
        session = self.session
        files = [session.results.path, session.images.finish(), self.finish_masks(), self.finish_decisions()]
        print(summary(session.rows()))
        print("\n".join(str(f) for f in files if f))
        if session.settings.store_img_png:
            print(self.files.images)

    def finish_masks(self) -> Path | None:
        """Gather the prompts' parts into one npz; a part outlives its run, so that a kill loses none."""
        if not self.settings.store_attn_npz:
            return None
        records = self.session.records
        if self.settings.store_all_tokens and self.session.faulty:
            return None  # that layout is by position, and one is missing
        with input_errors():
            if self.settings.store_all_tokens:
                save_whole_tokens(self.files.masks, [self.files.whole_attention(r.index) for r in records])
            else:
                parts = (self.parts.path(r.index, self.session.seeds(r)) for r in records)
                self.parts.merged(parts).save(self.files.masks)
        return self.files.masks

    def finish_decisions(self) -> Path | None:
        """Write and print memorized yes or no for every prompt, when there is a threshold or there are controls."""
        if self.decider is None:
            return None
        decisions = self.decider.of_rows(self.session.rows())
        write_text(self.files.decisions, "".join(json.dumps(line) + "\n" for line in decisions))
        print(self.decider.table(decisions).markdown())
        return self.files.decisions
