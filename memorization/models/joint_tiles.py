"""What attention tiles of joint attention are made with: layers, their maps' height, tokens of all text encoders.

In a joint layer image and text are one sequence with one softmax, so that what all tokens of a text get is less than 1.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from memorization.models.joint_attention import JointAttentionStore, joint_layers

if TYPE_CHECKING:
    from memorization.models.flow_matching import FlowMatchingPipeline, TextSequence

JOINT, SINGLE = "joint", "single"  # blocks with weights of their own for the text, and Flux's with the same for both
PADDING = "padding"  # the rows behind an end token together


class JointTiles:
    """Layers and tokens of a transformer for one prompt.

    Attributes:
        labels: of each token: its text, begin and end token and padding, behind the encoder's name where there are
            several.
    """

    def __init__(self, pipe: "FlowMatchingPipeline", prompt: str):
        self.pipe = pipe
        self.labels: list[str] = []
        self.rows: list[range] = []  # of the features, of each label
        sequences = pipe.sequences
        ends = [*(sequence.begin for sequence in sequences[1:]), pipe.text_length]
        for sequence, end in zip(sequences, ends, strict=True):
            texts = token_texts(sequence, prompt)
            last = sequence.begin + len(texts)
            rows = [range(row, row + 1) for row in range(sequence.begin, last)]
            if last < end:
                texts, rows = [*texts, PADDING], [*rows, range(last, end)]
            encoder = f"{sequence.name.removesuffix('_end')} " if len(sequences) > 1 else ""
            self.labels += [encoder + text for text in texts]
            self.rows += rows

    def places(self, is_self: bool) -> dict[str, str]:
        """Every layer's place, `joint` or `single`; self-attention is in the same layers."""
        names = joint_layers(self.pipe.transformer)
        return {name: SINGLE if name.startswith("single_") else JOINT for name in names}

    def height(self, name: str, size: int) -> int:
        """Height of a layer's maps, of latents of this height."""
        return size // self.pipe.patch_length

    def store(self, layers: Sequence[str], is_self: bool) -> "TileStore":
        """What records some layers: the tokens' columns, or those of the image."""
        return TileStore(layers, self.rows, self.pipe.text_length, is_self)

    def token_maps(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps by label out of what was recorded, which are those already."""
        return maps


def token_texts(sequence: "TextSequence", prompt: str) -> list[str]:
    """The text of every token that an encoder reads of a prompt, up to its end token."""
    tokenizer: Any = sequence.tokenizer
    ids = tokenizer(prompt, truncation=True, max_length=sequence.length).input_ids
    ids = ids[: sequence.end_row(prompt) - sequence.begin + 1]
    names = {tokenizer.bos_token_id: "<begin>", tokenizer.eos_token_id: "<end>"}
    return [names.get(i) or tokenizer.decode([i]).strip() or "?" for i in ids]


class TileStore(JointAttentionStore):
    """Keeps (images, height * width, labels), or (images, height * width, height * width) of self-attention."""

    def __init__(self, layers: Sequence[str], rows: Sequence[range], text_length: int, is_self: bool):
        super().__init__(layers, torch.empty(0), [0], [], text_length)
        self.rows, self.of_image = rows, is_self

    def keep(self, probs: torch.Tensor) -> torch.Tensor:
        if self.of_image:
            return probs
        return torch.stack([probs[:, :, rows.start : rows.stop].sum(2) for rows in self.rows], 2)
