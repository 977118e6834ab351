"""A mitigation run: how a group of prompts is made, and what is written of it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memorization.contrast import generate_by_contrast, refuse_contrast
from memorization.data.links import lacks_pictures
from memorization.data.pictures import check_pictures
from memorization.data.prompts import PromptRecord
from memorization.errors import InputError, warn
from memorization.evaluation.mitigation_summary import MEASURES, mitigation_summary
from memorization.evaluation.plain_colours import without_plain_colours
from memorization.files.embeddings import read_embeddings
from memorization.files.layout import images_npz
from memorization.files.whole import replace_link, write_text
from memorization.finished_runs import read_run
from memorization.mitigations.base import MITIGATIONS, run_mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions
from memorization.mitigations.options import measures_first_step, refuse_undefined_method
from memorization.mitigations.perturb import augment_prompt
from memorization.mitigations.prompt_search import search_prompt
from memorization.needs import NOISE as PREDICTED_NOISE
from memorization.ordinary import ordinary_text
from memorization.runs.first_step import BY_CONSTRUCTION, refuse_blind_method
from memorization.runs.images import decode_or_leave_out
from memorization.runs.masks import SharedMasks
from memorization.runs.mitigation_settings import MitigationSettings
from memorization.runs.session import Group, Session
from memorization.similarity.measure import MEASURES as SIMILARITIES
from memorization.similarity.measure import Evaluators, measure_run
from memorization.similarity.pixels import similarity_to_references
from memorization.tables import format_table, plain

NOISE = "gni"  # the method behind --rand_noise_lam, which combines with other words
COLUMNS = ("kind", "triggered", "unet_evals_per_image", "magnitude_before", "magnitude_after")  # read back


class PromptGroups:
    """Groups of prompts on their way through the run's mitigation; every decision is made per image."""

    def __init__(self, settings: MitigationSettings, session: Session):
        """
        Raises:
            InputError: if masks or embeddings that were given are of something else, or the method measures what this
                model's first step does not show.
        """
        self.settings, self.session, self.pipe = settings, session, session.pipe
        refuse_undefined_method(settings.kept, self.pipe)
        if settings.contrast is not None:
            refuse_contrast(self.pipe)
        refuse_blind_method(session.is_blind and measures_first_step(settings.kept), settings.label)
        is_velocity = PREDICTED_NOISE in self.pipe.lacks
        if is_velocity and measures_first_step(settings.kept) and session.processes.is_main:
            warn(f"targets of {settings.label} are in units of D of the velocity, those it was released with of noise")
        if session.is_blind and session.processes.is_main:
            warn(f"magnitude_before and magnitude_after are of the first step, which {BY_CONSTRUCTION}")
        self.masks = SharedMasks(session, settings.attn_scores) if settings.uses_masks else None
        self.given: dict[int, torch.Tensor] = {}
        if settings.prompt_embeds is not None:
            shape = self.pipe.encode([""])[0].shape[1:]
            self.given = read_embeddings(settings.prompt_embeds, [r.index for r in session.records], shape)

    @cached_property
    def options(self) -> MitigationOptions:
        """Options of the batches, with features of ordinary captions for a method that compares with them."""
        guidance_scale, method = self.session.settings.guidance_scale, self.settings.method
        assert guidance_scale is not None  # of the session it is known
        options = self.settings.options(guidance_scale)
        if method is None or not MITIGATIONS[method].compares:
            return options
        return replace(options, ordinary_text=ordinary_text(self.pipe, self.settings.ordinary))

    def alternatives(self, record: PromptRecord) -> tuple[str, ...]:
        """Paraphrases that SS looks at."""
        return record.alternatives if self.settings.l_target_ss is not None else ()

    def prompt_of(self, record: PromptRecord) -> str:
        """The prompt that is generated with: perturbed where words are to be changed."""
        style = self.settings.prompt_aug_style
        if style is None:
            return record.prompt
        seed = self.session.seeds(record)[0]
        return augment_prompt(record.prompt, style, self.settings.repeat_num, seed, self.session.token_texts)

    def encode(self, prompt: str, record: PromptRecord) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of a prompt and its alternatives, and of the empty prompt; --prompt_embeds replaces the first."""
        text, negative = self.pipe.encode([prompt, *self.alternatives(record)])
        if self.given:
            text = torch.cat([self.given[record.index].to(text)[None], text[1:]])
        return text, negative

    def batch(self, group: Group) -> ImageBatch:
        """What the images of some prompts are made from."""
        session, count = self.session, self.session.settings.num_images_per_prompt
        prompts = [self.prompt_of(r) for r in group]
        encoded = [self.encode(p, r) for p, r in zip(prompts, group, strict=True)]
        masks = None if self.masks is None else self.masks.of(group, [text[:1] for text, _ in encoded])
        return ImageBatch(
            latents=torch.cat([session.latents(r) for r in group]),
            seeds=[seed for r in group for seed in session.seeds(r)],
            candidates=[text for text, _ in encoded for _ in range(count)],
            negative=encoded[0][1][:1],
            mask=None if masks is None else masks.to(session.device),
            prompts=[p for p in prompts for _ in range(count)],
            end_tokens=[self.pipe.end_token(p) for p in prompts for _ in range(count)],
        )

    def generate(self, images: ImageBatch) -> Mitigated:
        """Images of one batch under the run's mitigation, or by contrast with the base."""
        if self.settings.contrast is not None:
            return generate_by_contrast(self.pipe, self.options, images, self.settings.contrast)
        method, strength = self.settings.method, self.settings.strength
        if self.settings.rand_noise_lam is not None:
            method, strength = NOISE, self.settings.rand_noise_lam
        if method is None or strength is None:
            return search_prompt(self.pipe, self.options, images)
        return run_mitigation(self.pipe, self.options, images, method, strength)


class MitigationOutput:
    """Writes what came of groups of prompts: images first and the rows last, and measures at the end."""

    def __init__(self, settings: MitigationSettings, session: Session, groups: PromptGroups):
        """
        Raises:
            InputError: if an evaluator that was asked for cannot be had, or a training image is damaged; so that it
                shows before the work.
        """
        self.settings, self.session, self.groups, self.files = settings, session, groups, settings.files
        self.evaluators = Evaluators()
        if session.processes.is_main:
            self.check_references()
            self.evaluators = self.open_evaluators()

    def check_references(self) -> None:
        """Look at all training images that will be compared with, and say how many prompts have none."""
        wanted, records = self.settings.evaluators, self.session.records
        lacking = [r.index for r in records if not r.reference_images]
        if wanted.sscd is not None and len(lacking) == len(records):
            name = self.session.settings.dataset
            raise InputError(f"--sscd needs training images: {lacks_pictures(name, records, 'has none')}")
        if lacking and len(lacking) < len(records):
            told = f"{len(lacking)} of {len(records)} prompts have no training image, the first is prompt {lacking[0]}"
            warn(f"{told}; they are generated, and left out where images are compared with one")
        check_pictures(r for r in records if wanted.sscd is not None or not self.session.is_finished(r))

    def open_evaluators(self) -> Evaluators:
        wanted = replace(self.settings.evaluators, device=str(self.session.device))
        wanted.refuse_missing_files()
        clip = None
        try:
            clip = wanted.open_clip()
        except InputError as error:  # the documented commands name a model of gigabytes: no reason to stop
            warn(f"no CLIP similarity: {error}")
        return Evaluators(wanted.open_descriptor(), clip)

    def write_group(self, group: Group, prompts: Sequence[str], mitigated: Mitigated) -> None:
        """Everything of some prompts; a row says that all else of its prompt is there.

        Args:
            prompts: that the images were generated with, one per image.
        """
        count, rows = self.session.settings.num_images_per_prompt, []
        for record, prompt, one in zip(group, prompts[::count], mitigated.split(count), strict=True):
            if not self.session.is_finished(record):
                images = decode_or_leave_out(self.session, record, one.latents)
                if images is None:
                    continue
                if self.session.images.are_wanted:
                    self.session.images.save(record.index, self.session.seeds(record), images)
                rows.append(self.make_row(record, prompt, one, images))
        self.session.add_rows(rows)

    def make_row(
        self, record: PromptRecord, prompt: str, mitigated: Mitigated, images: np.ndarray
    ) -> dict[str, object]:
        row: dict[str, Any] = {
            "index": record.index,
            "prompt": record.prompt,
            "prompt_used": prompt,
            "kind": record.kind,
            "method": self.settings.label,
            "seeds": self.session.seeds(record),
            "magnitude_before": mitigated.magnitude_before,
            "magnitude_after": mitigated.magnitude_after,
            "triggered": mitigated.triggered,
        }
        if mitigated.choice is not None:
            candidates = [prompt, *self.groups.alternatives(record)]
            row |= {"choice": mitigated.choice, "prompts_chosen": [candidates[c] for c in mitigated.choice]}
        if mitigated.iterations is not None:
            row["iterations"] = mitigated.iterations
        if mitigated.latent_norms is not None:
            row["latent_norm"] = mitigated.latent_norms
        row["unet_evals_per_image"] = float(np.mean(mitigated.unet_evals))
        masks = self.groups.masks
        if masks is not None and record.index in masks.evals:
            row["mask_evals_per_image"] = masks.evals[record.index]
        if record.reference_images:
            row["pixel_similarity"] = similarity_to_references(images, record)
        means = {name: row[name] for name in MEASURES if name in row}
        return row | {f"mean_{name}": float(np.mean(values)) for name, values in means.items()}

    def finish(self) -> None:
        """Gather masks and images, measure them, and give the images of this method the documented name as well."""
        masks = self.groups.masks
        if masks is not None:
            masks.finish()
        similarity, npz = self.evaluate(), self.session.images.finish()
        files = [self.files.rows, similarity, npz]
        if npz is not None and npz.exists():
            files.append(replace_link(npz, images_npz(self.files.output_dir, self.session.settings.run_name)))
        if masks is not None:
            files.append(masks.path)
        print(mitigation_summary(self.settings.label, self.session.rows()))
        print("\n".join(str(f) for f in files if f))
        if self.session.settings.store_img_png:
            print(self.files.images)

    def evaluate(self) -> Path | None:
        """Measure all images, keep the numbers beside the rows, log and print their means."""
        if self.evaluators.descriptor is None and self.evaluators.clip is None:
            return None
        if self.session.images.are_kept():
            records = {r.index: r for r in self.session.records}
            (run,) = without_plain_colours([read_run(self.files.rows)])
            measured = measure_run(run, [r for r in run.rows if r["index"] in records], self.evaluators, records)
            write_text(self.files.similarity, "".join(json.dumps(plain(m)) + "\n" for m in measured))
            by_name = {n: [np.mean(m[n]) for m in measured if n in m] for n in SIMILARITIES}
            found = {n: float(np.mean(values)) for n, values in by_name.items() if values}
            means = {n: v for n, v in found.items() if np.isfinite(v)}
            self.session.track({f"mean_{n}": v for n, v in means.items()})
            print(format_table([SIMILARITIES[n] for n in means], [list(means.values())]))
            print(self.evaluators.describe())
        return self.files.similarity
