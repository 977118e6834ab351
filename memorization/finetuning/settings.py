"""What a fine-tuning is asked for, what of it decides the weights, and what does not go together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diffusers.utils import is_peft_available

from memorization.bundled import bundled_name
from memorization.errors import InputError
from memorization.finetuning.base import parse_mitigations
from memorization.finetuning.captions import OWN_MODES
from memorization.finetuning.duplication import CHOOSING, DUPLICATES, IMAGE, SHARE

FREE = (  # what a training may be gone on with under other values of
    *("output", "steps", "checkpoint_every", "validate_every", "validation_prompts", "save_pipeline_every"),
    *("num_workers", "batch_size", "gradient_accumulation_steps", "gradient_checkpointing"),
)
CONSTANT = ("constant", "constant_with_warmup", "piecewise_constant")  # schedules to which the end does not matter


@dataclass(frozen=True)
class FinetuneSettings:
    """What is trained, by the names of the command line; its help says what each is."""

    dataset: str
    output: Path
    model_id: str
    background: str | None = None
    max_train_samples: int | None = None
    seed: int = 0
    duplication: str = "image_and_caption"
    duplicates: int | None = None
    duplicated_share: float | None = None
    captions: str = "own"
    sentence: str = "An image"
    mitigation: Sequence[str] = ()
    drop_above: float | None = None
    steps: int = 20_000
    batch_size: int = 4
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    lr: float = 1e-5
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    ema_decay: float | None = None
    train_text_encoder: bool = False
    unet_from_scratch: bool = False
    lora_rank: int | None = None
    lora_alpha: int | None = None
    checkpoint_every: int = 500
    validate_every: int | None = None
    validation_prompts: Sequence[str] = ()
    save_pipeline_every: int | None = None
    num_workers: int = 0

    @property
    def samples_per_step(self) -> int:
        """Of all batches that one process gives to a step."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def times(self) -> int:
        return DUPLICATES if self.duplicates is None else self.duplicates

    @property
    def share(self) -> float:
        return SHARE if self.duplicated_share is None else self.duplicated_share

    @property
    def needs_several(self) -> str | None:
        """The option by which a picture has to have several captions, if any."""
        if self.captions == "in_turn":
            return "--captions in_turn"
        if self.duplication == IMAGE:
            return f"--duplication {IMAGE}"
        needing = [a.record.name for a in parse_mitigations(self.mitigation) if a.record.needs_several]
        return f"--mitigation {needing[0]}" if needing else None

    @property
    def identity(self) -> dict[str, object]:
        """What decides the weights; the end does only where the learning rate falls towards it."""
        values = {name: bundled_name(value) for name, value in asdict(self).items()}
        kept = {name: value for name, value in values.items() if name not in FREE}
        kept |= {"mitigation": list(self.mitigation), "samples_per_step": self.samples_per_step}
        return kept | ({} if self.lr_scheduler in CONSTANT else {"steps": self.steps})


def refuse_contradictions(settings: FinetuneSettings) -> None:
    """
    Raises:
        InputError: one line, for options that do not go together, or that need a package which is not there.
    """
    is_chosen = settings.duplicates is not None or settings.duplicated_share is not None
    if is_chosen and settings.duplication not in CHOOSING:
        raise InputError(f"--duplicates and --duplicated_share go with --duplication {' or '.join(CHOOSING)}")
    several = settings.needs_several
    if several is not None and settings.captions not in OWN_MODES:
        raise InputError(f"{several} takes captions of the data set, which --captions {settings.captions} leaves out")
    if settings.lora_alpha is not None and settings.lora_rank is None:
        raise InputError("--lora_alpha goes with --lora_rank")
    if settings.lora_rank is not None and settings.unet_from_scratch:
        raise InputError("--lora_rank tunes a finished UNet; leave it out with --unet_from_scratch")
    if settings.lora_rank is not None and not is_peft_available():
        raise InputError('--lora_rank needs the package peft: pip install -e ".[lora]"')
    if settings.validation_prompts and settings.validate_every is None:
        raise InputError("--validation_prompts goes with --validate_every")
    if settings.lr_scheduler == "constant" and settings.lr_warmup_steps:
        raise InputError("--lr_warmup_steps does nothing with --lr_scheduler constant; take constant_with_warmup")
