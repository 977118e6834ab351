"""Which world a command works on: the drawn one, or one of a folder of captioned pictures."""

from pathlib import Path

from planted.making.drawn.world import DrawnWorld
from planted.making.folder.world import FolderWorld
from planted.making.world import World


def choose_world(pictures: Path | None, seed: int) -> World:
    """The drawn world, or that of a folder planted by a seed.

    Raises:
        InputError: if the folder cannot be used, or is too small for what is planted.
    """
    return DrawnWorld() if pictures is None else FolderWorld(pictures, seed)
