"""Many prompts encoded together, for what goes through more of them than it pays to encode one by one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from local_sd_pipeline import LocalStableDiffusionPipeline

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


def encode_batch(pipe: "DenoisingPipeline", prompts: Sequence[str]) -> torch.Tensor:
    """Features of some prompts, (prompts, rows, dim): in one call of the text encoder of Stable Diffusion 1 and 2.

    Every prompt is padded to the model's length, so that its features depend on its neighbours by no more than the
    rounding of matrix products of another size. Other families encode one after another.
    """
    pipe.maybe_free_model_hooks()  # of offloaded parts those that the text encoders would have to lie beside
    if not isinstance(pipe, LocalStableDiffusionPipeline):
        return torch.cat([pipe.encode_one(prompt) for prompt in prompts])
    # What encode_prompt of diffusers does, but for tokenizing every prompt three times.
    tokenizer = pipe.tokenizer
    given = tokenizer(
        written_out(pipe, prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).to(pipe._execution_device)
    has_mask = getattr(pipe.text_encoder.config, "use_attention_mask", False)
    return pipe.text_encoder(given.input_ids, given.attention_mask if has_mask else None)[0]


def count_truncated(pipe: "DenoisingPipeline", prompts: Sequence[str]) -> int:
    """How many of some prompts are longer than the model reads."""
    if not isinstance(pipe, LocalStableDiffusionPipeline):  # several tokenizers, each with a limit of its own
        return sum(bool(pipe.truncated_text(prompt)) for prompt in prompts)
    limit = pipe.tokenizer.model_max_length
    long = [text for text in written_out(pipe, prompts) if len(text.encode()) > limit - 2]  # a token has a byte or more
    return sum(len(ids) > limit for ids in pipe.tokenizer(long).input_ids) if long else 0


def written_out(pipe: "DenoisingPipeline", prompts: Sequence[str]) -> list[str]:
    """Prompts with tokens of several vectors spelled as diffusers spells them, which have names such as `X_1`."""
    has_vectors = any(name.endswith("_1") for name in pipe.tokenizer.added_tokens_encoder)
    return [pipe.written_out(prompt) for prompt in prompts] if has_vectors else list(prompts)
