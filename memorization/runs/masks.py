"""The bright-ending masks of a run: read from a file, or made by an unmitigated generation and kept for other runs."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch

from attn_utils import fit_mask
from memorization.data.prompts import PromptRecord
from memorization.errors import input_errors
from memorization.files.masks import MaskedPrompt, MaskParts, MaskStore, open_masks
from memorization.files.original_masks import is_original_layout
from memorization.needs import CROSS_ATTENTION, refuse_undefined
from memorization.observation import Recorded, observe_batches
from memorization.runs.session import Session


class GivenMasks:
    """Masks of an earlier pass, by prompt, out of a file in our layout or in the original's.

    Attributes:
        evals: prompt index to the evaluations that an image's mask cost, where the file says it.
    """

    def __init__(self, session: Session, path: Path, remedy: str, complete: bool = True):
        """
        Args:
            remedy: what to do about a refusal, the end of the message.
            complete: refuse a file that lacks a mask of one of the session's images.

        Raises:
            InputError: if the file is damaged or its masks are of something else, or another kind of model.
        """
        self.session = session
        with input_errors():
            if is_original_layout(path):
                refuse_undefined(f"{path}, in the original's layout,", (CROSS_ATTENTION,), session.pipe)
        self.masks = open_masks(
            path,
            [MaskedPrompt(r.index, session.seeds(r), r.prompt) for r in session.records],
            session.mask_settings,
            end_token=session.pipe.end_token,
            start=session.settings.start,
            complete=complete,
            remedy=remedy,
        )
        self.evals = self.masks.evals

    def has(self, record: PromptRecord) -> bool:
        return self.masks.has(record.index, self.session.seeds(record))

    def of(self, record: PromptRecord) -> torch.Tensor:
        """Masks of one prompt's images, float32 (images, 1, height, width)."""
        return self.masks.get(record.index, self.session.seeds(record))

    def of_group(self, group: Sequence[PromptRecord]) -> torch.Tensor:
        """Masks of all images of some prompts, (images, 1, height, width)."""
        return torch.cat([self.of(record) for record in group])


class SharedMasks:
    """Masks that mitigation runs make for one another: read where they are there, else made for the same seeds.

    Attributes:
        path: the file they are read from, and those that are made are added to.
        evals: prompt index to the evaluations that an image's mask cost when it was made.
    """

    def __init__(self, session: Session, given: Path | None):
        """
        Args:
            given: a file to read all masks from instead.

        Raises:
            InputError: if the file is damaged or its masks are of something else.
        """
        self.session, self.is_given = session, given is not None
        self.path = given or session.files.shared_masks
        self.parts = MaskParts(session.files.shared_mask_parts, session.mask_settings)
        remedy = "move the file away, or give another by --attn_scores"
        has_file = self.is_given or self.path.exists()
        self.found = GivenMasks(session, self.path, remedy, complete=self.is_given) if has_file else None
        self.evals = {} if self.found is None else dict(self.found.evals)

    def of(self, group: Sequence[PromptRecord], text: Sequence[torch.Tensor]) -> torch.Tensor:
        """Masks of the prompts' images: stored ones, or those of an unmitigated generation, which are then stored.

        Args:
            text: features of each prompt, (1, tokens, dim).

        Returns:
            float32 tensor (images of all prompts, 1, height, width), at the latents' size, which each has to fit.
        """
        lacking = [k for k, r in enumerate(group) if self.found is None or not self.found.has(r)]
        if lacking and not all(self.part_path(group[k]).exists() for k in lacking):
            # All together or none: their rounding is that of the batch.
            self.make([group[k] for k in lacking], torch.cat([text[k] for k in lacking]))
        made = {group[k].index: self.read_part(group[k]) for k in lacking}
        masks = []
        for record in group:
            store = made.get(record.index)
            if store is not None:
                self.evals[record.index] = store.evals[record.index]
                masks.append(store.get(record.index, self.session.seeds(record)))
            else:
                assert self.found is not None
                masks.append(self.found.of(record))
        with input_errors():
            return torch.cat([fit_mask(m, self.session.latent_size) for m in masks])

    def part_path(self, record: PromptRecord) -> Path:
        return self.parts.path(record.index, self.session.seeds(record))

    def read_part(self, record: PromptRecord) -> MaskStore:
        path, seeds = self.part_path(record), self.session.seeds(record)
        prompts = [MaskedPrompt(record.index, seeds, record.prompt)]
        return open_masks(path, prompts, self.session.mask_settings, remedy=f"remove the folder {path.parent}")

    def make(self, records: Sequence[PromptRecord], text: torch.Tensor) -> None:
        """Generate without mitigation and keep a file of masks per prompt."""
        session, pipe, settings = self.session, self.session.pipe, self.session.settings
        inputs, before = session.inputs(records, text), pipe.num_unet_evals
        whole = observe_batches(
            pipe,
            inputs,
            settings.batch_size,
            Recorded(session.layers),
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
        )
        evals = (pipe.num_unet_evals - before) / len(inputs.seeds)
        for record, observed in zip(records, whole.split(settings.num_images_per_prompt), strict=True):
            assert observed.mask is not None
            self.parts.add(record.index, record.prompt, session.seeds(record), observed.mask, evals)

    def finish(self) -> None:
        """Add the masks that this run made to the file that other runs read, and drop their parts."""
        if self.is_given:
            return
        paths = [path for path in map(self.part_path, self.session.records) if path.exists()]
        if not paths:
            return
        with input_errors():  # the file is read again: another run may have added to it
            store = open_masks(self.path) if self.path.exists() else None
            self.parts.merged(paths, store).save(self.path)
        for path in paths:
            path.unlink()
        with contextlib.suppress(OSError):  # parts of another run
            self.parts.folder.rmdir()
