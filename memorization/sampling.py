"""How images are made in memory: by the names of the command line."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memorization.data.prompts import PromptRecord
from memorization.errors import InputError
from memorization.seeds import image_seeds

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


@dataclass(frozen=True)
class Sampling:
    """How images are made: by the names of the command line, which has the same defaults."""

    num_images_per_prompt: int = 1
    num_inference_steps: int = 50
    guidance_scale: float | None = None  # the model's usual one
    gen_seed: int = 0
    batch_size: int = 16
    grad_batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.grad_batch_size is not None and self.grad_batch_size < 1:
            raise InputError(
                f"grad_batch_size {self.grad_batch_size} is not at least 1; leave it out to let it be found"
            )

    def for_model(self, pipe: "DenoisingPipeline") -> "Sampling":
        """The same with the model's usual guidance scale where none was given; the model is told what concerns it."""
        scale = pipe.default_guidance_scale if self.guidance_scale is None else self.guidance_scale
        pipe.grad_batch_size = self.grad_batch_size
        pipe.set_guidance(scale)
        return replace(self, guidance_scale=scale)

    def seeds(self, record: PromptRecord) -> list[int]:
        return image_seeds(self.gen_seed, record.index, self.num_images_per_prompt)

    def groups(self, records: Sequence[PromptRecord]) -> list[Sequence[PromptRecord]]:
        """Prompts that share UNet calls."""
        size = max(1, self.batch_size // self.num_images_per_prompt)
        return [records[k : k + size] for k in range(0, len(records), size)]
