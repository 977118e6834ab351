"""What a planted world is to the training and to the data command, be it drawn or a folder of pictures."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from planted.making.pictures import TrainingPicture

TEMPLATE_IMAGES = 4  # training images that the data files keep of a template, to show its free region vary


@dataclass(frozen=True)
class Item:
    """A planted item as the data files tell it.

    Attributes:
        number: its index in the files.
        kind: "verbatim" or "template".
        dose: how many pictures of the training set carry it.
        num_captions: how many wordings they come with.
        caption: what it is asked for by.
        paraphrases: captions of the same meaning that are never trained on.
        near_miss: a caption one word away from `caption` that is never trained on.
        images: some of its training images, uint8 (128, 128, 3) each; one of a verbatim item.
        mask: bool (128, 128), True where the picture is a copy.
    """

    number: int
    kind: str
    dose: int
    num_captions: int
    caption: str
    paraphrases: tuple[str, ...]
    near_miss: str
    images: tuple[np.ndarray, ...]
    mask: np.ndarray


class World(Protocol):
    """Captioned pictures of 128 px, some of them repeated so that a model memorizes them."""

    def autoencoder_pictures(self, seed: int) -> np.ndarray | Sequence[np.ndarray]:
        """Pictures of the world, none of them planted: uint8 (pictures, 128, 128, 3)."""
        ...

    def training_pictures(self, seed: int) -> list[TrainingPicture]:
        """The whole training set, ordinary pictures first."""
        ...

    def held_out_captions(self) -> set[str]:
        """Captions that no ordinary picture carries, but that the tokenizer should spell."""
        ...

    def items(self) -> list[Item]:
        """What is planted, in order of its numbers."""
        ...

    def unseen(self, count: int, seed: int, taken: Collection[str]) -> list[TrainingPicture]:
        """Ordinary pictures that are never trained on, of as many captions, none of them in `taken`.

        Raises:
            InputError: if there are not as many.
        """
        ...
