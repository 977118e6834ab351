"""What a mitigation run was asked for: frozen, made once from the command line, and what of it is refused."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from memorization.errors import InputError
from memorization.files.layout import RunFiles
from memorization.identity import REVISIONS
from memorization.mitigations.base import MITIGATIONS, PLAIN
from memorization.mitigations.batch import MitigationOptions
from memorization.mitigations.options import (
    MASK_RUN_VERSION,
    flags_of_method,
    method_label,
    revisions_of,
    uses_masks,
)
from memorization.runs.settings import RunSettings, from_arguments, kept
from memorization.similarity.measure import EvaluatorSettings

KEPT = (
    "run_version",
    "optim_target_loss",
    "optim_lr",
    "optim_iters",
    "l_target_ss",
    "l_target_pr",
    "mag_thres_pr",
    "pr_mask",
    "prompt_aug_style",
    "repeat_num",
    "rand_noise_lam",
    "attn_scores",
    "method",
    "strength",
    "prompt_embeds",
    "ordinary",
    "contrast",
)  # beside the rows


@dataclass(frozen=True)
class MitigationSettings:
    """What mitigation is asked for, by the names of the command line; `run` has what both scripts share.

    A method that has flags of its own is turned into them: `method` and `strength` are of the others alone.
    """

    run: RunSettings
    evaluators: EvaluatorSettings = EvaluatorSettings()  # noqa: RUF009  # frozen
    run_version: str = "baseline"
    method: str | None = None
    strength: float | None = None
    prompt_embeds: Path | None = None
    attn_scores: Path | None = None
    optim_target_loss: float | None = None
    optim_lr: float = 0.05
    optim_iters: int = 10
    l_target_ss: float | None = None
    l_target_pr: float | None = None
    mag_thres_pr: float | None = None
    pr_mask: bool = False
    prompt_aug_style: str | None = None
    repeat_num: int = 1
    rand_noise_lam: float | None = None
    ordinary: str | None = None
    contrast: float | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "MitigationSettings":
        """
        Raises:
            InputError: one line per combination that means nothing, the first found.
        """
        values = vars(args) | flags_of_method(vars(args))
        if args.optim_target_steps != 0:
            raise InputError("--optim_target_steps must be 0: the methods are defined at the first step")
        run, evaluators = from_arguments(RunSettings, values), from_arguments(EvaluatorSettings, args, lpips=False)
        settings: MitigationSettings = from_arguments(cls, values, run=run, evaluators=evaluators)
        settings.refuse_meaningless()
        return settings

    def refuse_meaningless(self) -> None:
        """
        Raises:
            InputError: one line per combination that means nothing, the first found.
        """
        self.refuse_reanchoring_alone()
        self.refuse_contrast_beside()
        searches = self.l_target_ss is not None or self.optim_target_loss is not None
        if (self.prompt_aug_style is not None or self.rand_noise_lam is not None) and searches and not self.method:
            raise InputError("--prompt_aug_style and --rand_noise_lam do not combine with PE, SS or PR")
        if self.evaluators.are_any and not self.run.with_tracking:
            raise InputError("--sscd and --reference_model are used with --with_tracking; eval_mem.py measures later")
        if self.evaluators.are_any and not (self.run.store_img_png or self.run.store_img_npz):
            raise InputError("--sscd and --reference_model need the images: leave --store_img_png on")
        reads_words = self.method is not None and MITIGATIONS[self.method].reads == "words"
        if self.prompt_embeds is not None and (self.prompt_aug_style is not None or reads_words):
            name = self.method or f"--prompt_aug_style {self.prompt_aug_style}"
            raise InputError(f"{name} changes the words of a prompt, which --prompt_embeds takes the place of")
        if self.prompt_embeds is not None and self.l_target_ss is not None:
            raise InputError(
                "SS and PRSS search paraphrases of the prompt itself, which whoever is given an embedding does not "
                "know: they do not combine with --prompt_embeds"
            )
        if self.ordinary is not None and not (self.method is not None and MITIGATIONS[self.method].compares):
            names = ", ".join(name for name, method in MITIGATIONS.items() if method.compares)
            raise InputError(f"--ordinary is what neurons are compared with: it goes with --method {names}")
        if self.attn_scores is not None and not self.uses_masks:
            raise InputError("--attn_scores is not used here: add --run_version ours_A with PE or SS, or --pr_mask")

    def refuse_contrast_beside(self) -> None:
        if (self.contrast is None) != (self.run.base_model_id is None):
            raise InputError("--contrast is with the model before tuning: it goes with --base_model_id")
        if self.contrast is None:
            return
        label = method_label(self.kept | {"contrast": None})
        if label != PLAIN:
            raise InputError(f"--contrast is an attack of the model by itself: it does not combine with {label}")

    def refuse_reanchoring_alone(self) -> None:
        if (self.l_target_pr is None) != (self.mag_thres_pr is None):
            raise InputError("--l_target_pr and --mag_thres_pr go together")
        if self.l_target_pr is not None and self.mag_thres_pr is not None and self.mag_thres_pr <= self.l_target_pr:
            raise InputError(f"--mag_thres_pr {self.mag_thres_pr} must exceed --l_target_pr {self.l_target_pr}")
        if self.l_target_pr is not None and self.l_target_ss is None and self.optim_target_loss is None:
            raise InputError("--l_target_pr needs a modified prompt: add --l_target_ss or --optim_target_loss")
        if self.pr_mask and self.l_target_pr is None:
            raise InputError("--pr_mask restricts re-anchoring: add --l_target_pr and --mag_thres_pr")

    @property
    def kept(self) -> dict[str, object]:
        """What decides the numbers besides the prompts and the model; from it a finished run knows its method."""
        settings = kept(self, KEPT)
        return settings | {REVISIONS: revisions_of(settings)}

    @property
    def given_files(self) -> dict[str, Path | None]:
        return {"attn_scores": self.attn_scores, "prompt_embeds": self.prompt_embeds}

    @property
    def uses_masks(self) -> bool:
        return uses_masks(self.kept)

    @property
    def label(self) -> str:
        """Name of the mitigation, part of the names of the run's files."""
        return method_label(self.kept, with_count=True)

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.run.output_dir, f"{self.run.run_name}_{self.label}", is_mitigation=True)

    def options(self, guidance_scale: float) -> MitigationOptions:
        names = {f.name for f in fields(MitigationOptions)} & {f.name for f in fields(self)}
        return MitigationOptions(
            **{name: getattr(self, name) for name in names},
            guidance_scale=guidance_scale,
            num_inference_steps=self.run.num_inference_steps,
            use_mask=self.run_version == MASK_RUN_VERSION,
        )
