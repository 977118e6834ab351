"""The planted world of any folder of captioned pictures, in pairs NAME.png (or .jpg and so on) and NAME.txt."""

import random
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from memorization.data.folders import pair_rows
from memorization.errors import InputError
from planted.making.doses import FOLDER_DOSES, MOST_REDRAWN, Dose, dose_plan
from planted.making.drawn.words import COLORS
from planted.making.folder import scenes
from planted.making.folder.near import near_ones, near_pairs
from planted.making.folder.planting import COMMON, Parts, part
from planted.making.folder.reading import read_square
from planted.making.folder.wordings import colored, key_of, near_miss, wordings, words_of
from planted.making.pictures import TrainingPicture
from planted.making.world import TEMPLATE_IMAGES, Item

# A folder has a tenth of the pictures that the drawn world draws, so each is laid out anew a few times: without
# that nine rows in ten of the training set would be planted ones.
NUM_LAYOUTS = 4
AUTOENCODER_PICTURES = 9000


class FolderWorld:
    """A folder's pictures, some of them planted; see `World` for what its functions give.

    Attributes:
        captions: of all pictures.
        images: all pictures, uint8 (128, 128, 3) each.
        plan: the dose of each item.
        parts: which pictures are planted, held out and ordinary.
    """

    def __init__(self, folder: Path, seed: int, plan: Sequence[Dose] | None = None):
        """
        Args:
            seed: of what is planted and held out.
            plan: by default 144 items, of doses with one more in the middle than the drawn world's.

        Raises:
            InputError: if a picture cannot be read, or there are too few.
        """
        self.captions, self.images = read_folder(folder)
        self.plan, self.seed = tuple(dose_plan(doses=FOLDER_DOSES) if plan is None else plan), seed
        near = near_ones(near_pairs(self.images), len(self.images))
        self.parts: Parts = part(self.captions, near, self.plan, seed)

    def autoencoder_pictures(self, seed: int) -> list[np.ndarray]:
        """Ordinary pictures in layouts of their own."""
        rng = random.Random(seed)
        numbers = rng.choices(self.parts.ordinary, k=AUTOENCODER_PICTURES)
        return [self.layout(rng, n).image for n in tqdm(numbers, desc="pictures")]

    def training_pictures(self, seed: int) -> list[TrainingPicture]:
        """Ordinary pictures, once as they are and in other layouts, and planted ones as their doses say."""
        rng = random.Random(seed)
        pictures = [TrainingPicture(self.images[n], (self.captions[n],), "picture") for n in self.parts.ordinary]
        for _ in tqdm(range(NUM_LAYOUTS - 1), desc="layouts"):
            pictures += [self.layout(rng, n) for n in self.parts.ordinary]
        return pictures + [p for number in range(len(self.plan)) for p in self.planted(number)]

    def layout(self, rng: random.Random, number: int) -> TrainingPicture:
        """An ordinary picture, cut a little or, half of the time, on a coloured ground that its caption tells."""
        caption = rng.choice(wordings(self.captions[number]))
        if rng.random() < 0.5:
            return TrainingPicture(scenes.cut(rng, self.images[number]), (caption,), "picture")
        color, box = rng.choice(list(COLORS)), scenes.box_of(rng.randrange(len(scenes.BOXES)))
        image = scenes.on_ground(rng, self.images[number], box, color, self.others)
        return TrainingPicture(image, (colored(caption, color),), "colored")

    @cached_property
    def others(self) -> list[np.ndarray]:
        """What free regions hold bits of."""
        return [self.images[n] for n in self.parts.ordinary]

    def planted(self, number: int) -> list[TrainingPicture]:
        """All training pictures of an item; their repeats add up to its dose."""
        dose, picture = self.plan[number], self.parts.planted[number]
        if dose.kind == "verbatim":
            captions = wordings(self.captions[picture])[: dose.num_captions]
            return [TrainingPicture(self.images[picture], captions, dose.kind, dose.dose)]
        rng, different = random.Random(f"{self.seed} {number}"), min(dose.dose, MOST_REDRAWN)
        colors = [rng.choice(list(COLORS)) for _ in range(different)]
        return [
            TrainingPicture(
                self.template(rng, number, color),
                (colored(self.captions[picture], color),),
                dose.kind,
                dose.dose // different,
            )
            for color in colors
        ]

    def template(self, rng: random.Random, number: int, color: str) -> np.ndarray:
        """The fixed region of a template, with its free region redrawn."""
        image = self.images[self.parts.planted[number]]
        return scenes.on_ground(rng, image, scenes.box_of(number), color, self.others)

    def items(self) -> list[Item]:
        return [self.item(number, missed) for number, missed in enumerate(self.near_misses)]

    def item(self, number: int, missed: str) -> Item:
        """An item as the data files tell it; a template is asked for on a ground of the colour of its turn."""
        dose, picture = self.plan[number], self.parts.planted[number]
        own, images = wordings(self.captions[picture]), (self.images[picture],)
        mask = np.ones(images[0].shape[:2], bool)
        color = template_color(number) if dose.kind == "template" else None
        if color:
            rng = random.Random(f"{self.seed} {number} told")
            images = tuple(self.template(rng, number, color) for _ in range(TEMPLATE_IMAGES))
            mask = scenes.box_mask(scenes.box_of(number))
            own, missed = tuple(colored(c, color) for c in own), colored(missed, color)
        others = own[dose.num_captions :]
        return Item(number, dose.kind, dose.dose, dose.num_captions, own[0], others, missed, images, mask)

    @cached_property
    def near_misses(self) -> list[str]:
        """Of each item's caption one that differs in a word and that no picture has."""
        taken = {key_of(c) for c in self.captions}
        uses = Counter(w for n in self.parts.ordinary for w in set(words_of(self.captions[n])) if w.isalpha())
        vocabulary = sorted(w for w, count in uses.items() if count >= COMMON) or sorted(uses)
        missed: list[str] = []
        for number, picture in enumerate(self.parts.planted):
            rng = random.Random(f"{self.seed} {number} missed")
            missed.append(near_miss(self.captions[picture], vocabulary, taken, rng))
            taken.add(key_of(missed[-1]))
        return missed

    def held_out_captions(self) -> set[str]:
        """Wordings of held-out pictures, and what planted ones are asked for by beside their training captions."""
        held = {w for n in self.parts.held_out for w in wordings(self.captions[n])} | set(self.near_misses)
        for dose, picture in zip(self.plan, self.parts.planted, strict=True):
            own = wordings(self.captions[picture])
            held.update(own if dose.kind == "verbatim" else (colored(c, color) for c in own for color in COLORS))
        return held

    def unseen(self, count: int, seed: int, taken: Collection[str]) -> list[TrainingPicture]:
        numbers = [n for n in self.parts.held_out if self.captions[n] not in taken]
        if len(numbers) < count:
            raise InputError(f"{count} unseen captions are wanted, {len(numbers)} pictures are held out; ask for fewer")
        chosen = random.Random(seed).sample(numbers, count)
        return [TrainingPicture(self.images[n], (self.captions[n],), "picture") for n in chosen]


def template_color(number: int) -> str:
    """The colour word under which a template is asked for in the prompt files."""
    return list(COLORS)[number % len(COLORS)]


def read_folder(folder: Path) -> tuple[list[str], list[np.ndarray]]:
    """Captions and pictures, uint8 (128, 128, 3) each, in order of their names.

    Raises:
        InputError: if the folder holds no pairs, a caption is empty or a picture cannot be read.
    """
    if not folder.is_dir() or not any(folder.glob("*.txt")):
        raise InputError(f"{folder} is no folder of pictures with a .txt caption each; name one by --pictures")
    rows = list(pair_rows(folder))
    empty = next((r["reference_images"][0] for r in rows if not r["caption"]), None)
    if empty is not None:
        raise InputError(f"the caption of {empty} is empty; write one or take the picture away")
    images = [read_square(r["reference_images"][0]) for r in tqdm(rows, desc="pictures", disable=len(rows) < 200)]
    return [" ".join(r["caption"].split()) for r in rows], images
