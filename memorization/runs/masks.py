"""The bright-ending masks of a mitigation run: read, or made by an unmitigated generation and kept for other runs."""

import contextlib

import torch

from attn_utils import fit_mask
from memorization.errors import InputError, input_errors
from memorization.files.masks import MaskParts, MaskStore
from memorization.files.original_masks import is_original_layout, load_original_layout
from memorization.observation import chunked, observe


class RunMasks:
    """Masks by prompt.

    Attributes:
        path: the file they are read from, and those that are made are added to.
        evals: prompt index to the evaluations that an image's mask cost when it was made.
    """

    def __init__(self, args, session):
        """
        Raises:
            InputError: if the file is damaged or its masks are of something else.
        """
        self.args, self.session = args, session
        self.path = args.attn_scores or session.attention / "mit_attn_scores.npz"
        self.positional, self.stored = {}, MaskStore(session.mask_settings)
        self.parts = MaskParts(session.attention / "mit_attn_scores_parts", session.mask_settings)
        self.open()
        self.evals = dict(self.stored.evals)

    def open(self):
        """Read --attn_scores, or the file that earlier runs left; refuse masks of anything else."""
        session, explicit = self.session, self.args.attn_scores is not None
        if not explicit and not self.path.exists():
            return
        remedy = "move the file away, or give another by --attn_scores"
        with input_errors():
            if is_original_layout(self.path):
                ends = [self.session.pipe.end_token(r.prompt) for r in session.records]
                count, start = self.args.num_images_per_prompt, self.args.start
                masks = load_original_layout(self.path, ends, count, start)
                self.positional = {r.index: m for r, m in zip(session.records, masks, strict=True)}
                return
            self.stored = MaskStore.load(self.path, session.mask_settings, session.records, remedy)
        for record in session.records if explicit else ():
            if not self.stored.has(record.index, session.seeds(record)):
                raise InputError(f"{self.path} has no mask of prompt {record.index} at this run's seeds; {remedy}")

    def of(self, group, prompt_embeds):
        """Masks of the prompts' images: stored ones, or those of an unmitigated generation, which are then stored.

        Args:
            prompt_embeds: one tensor (1, tokens, dim) a prompt.

        Returns:
            float32 tensor (images of all prompts, 1, height, width).
        """
        if self.positional:
            return self.joined([self.positional[r.index] for r in group])
        seeds = self.session.seeds
        lacking = [k for k, r in enumerate(group) if not self.stored.has(r.index, seeds(r))]
        stores = {r.index: self.stored for r in group}
        if lacking:
            paths = [self.parts.path(group[k].index, seeds(group[k])) for k in lacking]
            if not all(path.exists() for path in paths):  # all together or none: their rounding is that of the batch
                self.make([group[k] for k in lacking], [prompt_embeds[k] for k in lacking])
            for k, path in zip(lacking, paths, strict=True):
                stores[group[k].index] = self.read_part(path, group[k])
        for r in group:
            self.evals[r.index] = stores[r.index].evals[r.index]
        return self.joined([stores[r.index].get(r.index, seeds(r)) for r in group])

    def joined(self, masks):
        """Masks of several prompts as one tensor, at the latents' size, which each has to fit."""
        with input_errors():
            return torch.cat([fit_mask(m, self.session.latent_size) for m in masks])

    def read_part(self, path, record):
        with input_errors():
            return MaskStore.load(path, self.session.mask_settings, [record], f"remove the folder {path.parent}")

    def make(self, records, prompt_embeds):
        """Generate without mitigation and keep a file of masks a prompt."""
        session, count = self.session, self.args.num_images_per_prompt
        text = torch.cat(prompt_embeds).repeat_interleave(count, 0)
        inputs = {
            "latents": torch.cat([session.latents(r) for r in records]),
            "negative": self.session.pipe.empty_embeds.expand(len(text), -1, -1),
            "text": text,
            "tokens": torch.cat([session.end_tokens(r) for r in records]),
        }
        before = self.session.pipe.num_unet_evals
        made = torch.cat([self.unmitigated_mask(**chunk) for chunk in chunked(inputs, self.args.batch_size)])
        evals = (self.session.pipe.num_unet_evals - before) / len(made)
        for record, masks in zip(records, made.split(count), strict=True):
            self.parts.add(record.index, record.prompt, session.seeds(record), masks, evals)

    def unmitigated_mask(self, latents, negative, text, tokens):
        return observe(
            self.session.pipe, latents, (negative, text), tokens, layers=self.session.layers,
            num_inference_steps=self.args.num_inference_steps, guidance=self.session.guidance,
        ).mask  # fmt: skip

    def finish(self):
        """Add the masks that this run made to the file that other runs read, and drop their parts."""
        if self.args.attn_scores is not None:
            return
        paths = [self.parts.path(r.index, self.session.seeds(r)) for r in self.session.records]
        paths = [path for path in paths if path.exists()]
        if not paths:
            return
        with input_errors():  # the file is read again: another run may have added to it
            store = MaskStore.read(self.path) if self.path.exists() else None
            self.parts.merged(paths, store).save(self.path)
        for path in paths:
            path.unlink()
        with contextlib.suppress(OSError):  # parts of another run
            self.parts.folder.rmdir()
