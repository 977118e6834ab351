"""Files of bright-ending masks: read in the original's layout and ours, written in ours.

Ours holds one end-token map per image, keyed by prompt index and seed, with the prompts and settings
they belong to. The original's holds every token of every layer by position, (prompts, layers, images,
height * width, tokens), and is 150 times the size. Masks are read one at a time and written as they are
read, so that memory does not grow with the file. Nothing is ever unpickled.
"""

import json
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from memorization.errors import InputError, input_errors
from memorization.files.npz import READ_ERRORS, Streamed, open_array, write_npz
from memorization.files.original_masks import NO_MASK, is_mask, is_original_layout, load_original_layout
from memorization.identity import differing, pair_text

ARRAYS = ("index", "seed", "evals", "prompt", "attention_scores")

Key = tuple[int, int]  # prompt index and seed
MasksByKey = Mapping[Key, np.ndarray]  # arrays (height, width)


@dataclass(frozen=True)
class MaskedPrompt:
    """A prompt whose masks are wanted.

    Attributes:
        index: of the prompt in its data set.
        seeds: of its images, one each.
        prompt: what the file has to say at this index; None takes any.
    """

    index: int
    seeds: Sequence[int]
    prompt: str | None = None


def open_masks(
    path: Path,
    prompts: Sequence[MaskedPrompt] | None = None,
    settings: Mapping[str, object] | None = None,
    *,
    end_token: Callable[[str], int] | None = None,
    start: int = 0,
    complete: bool = True,
    whose: object = None,
    remedy: str = "",
) -> "MaskStore":
    """The masks of a file in either layout, checked against what they are wanted for.

    Args:
        prompts: whose masks are wanted; without them all of the file are given, unchecked.
        settings: by name, what has to have made the masks; the original's layout does not say it.
        end_token: index of a prompt's end token; without it the original's layout is refused.
        start: position in a file of the original's layout of the first of `prompts`.
        complete: refuse a file that lacks a mask of one of the prompts' images.
        whose: the run that wants them, where messages cannot say "this run".
        remedy: what to do about a refusal, the end of the message.

    Raises:
        InputError: one line, if the file is missing or damaged, or its masks are of something else or none.
    """
    with input_errors():
        if prompts is not None and end_token is not None and is_original_layout(path):
            return masks_by_position(path, prompts, end_token, start)
        store = MaskStore.read(path)
    refuse_other_settings(path, store, settings or {}, whose, remedy)
    if prompts is None:
        return store
    refuse_other_prompts(path, store, prompts, remedy)
    lacking = next((p for p in prompts if not store.has(p.index, p.seeds)), None)
    if complete and lacking is not None:
        seeds = "this run's seeds" if whose is None else f"the seeds of {whose}"
        raise InputError(f"{path} has no mask of prompt {lacking.index} at {seeds}; {remedy}")
    return store


def masks_by_position(
    path: Path, prompts: Sequence[MaskedPrompt], end_token: Callable[[str], int], start: int
) -> "MaskStore":
    """Masks of the original's layout under the seeds of the prompts that are at their places."""
    tokens = [end_token(p.prompt or "") for p in prompts]
    masks = load_original_layout(path, tokens, len(prompts[0].seeds), start).numpy()
    by_key = {
        (p.index, seed): mask[0]
        for p, images in zip(prompts, masks, strict=True)
        for seed, mask in zip(p.seeds, images, strict=True)
    }
    return MaskStore({}, {p.index: p.prompt or "" for p in prompts}, by_key)


def refuse_other_settings(
    path: Path, store: "MaskStore", settings: Mapping[str, object], whose: object, remedy: str
) -> None:
    for name in differing(store.settings, settings, settings):
        made, wanted = pair_text(name, store.settings, settings)
        other = "this run's is" if whose is None else f"{whose} of"
        raise InputError(f"masks in {path} are of {name} {made}, {other} {wanted}; {remedy}")


def refuse_other_prompts(path: Path, store: "MaskStore", prompts: Sequence[MaskedPrompt], remedy: str) -> None:
    """Refuse a file that has another prompt at an index, or what is no mask for one of the prompts."""
    for wanted in prompts:
        stored = store.prompts.get(wanted.index)
        if None not in (stored, wanted.prompt) and stored != wanted.prompt:
            raise InputError(
                f"masks in {path} at index {wanted.index} are of the prompt {stored!r}, "
                f"this run's is {wanted.prompt!r}; {remedy}"
            )
    indices = {wanted.index for wanted in prompts}
    for key in store.masks:
        if key[0] in indices and not is_mask(store.masks[key]):
            raise InputError(f"the mask of prompt {key[0]} in {path} {NO_MASK}; {remedy}")


class StoredMasks(Mapping):
    """Masks of a file by (prompt index, seed), read when asked for: float16 arrays (height, width)."""

    def __init__(self, keys: Sequence[Key], scores: np.ndarray):
        self.positions, self.scores = {key: k for k, key in enumerate(keys)}, scores

    def __getitem__(self, key: Key) -> np.ndarray:
        return np.asarray(self.scores[self.positions[key]])

    def __iter__(self) -> Iterator[Key]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


@dataclass
class MaskStore:
    """Bright-ending masks keyed by (prompt index, seed), with the settings that made them.

    Attributes:
        settings: of the generation; empty where the file does not say them.
        prompts: prompt index to prompt.
        masks: (prompt index, seed) to array (height, width), any mapping; float16 in our files.
        evals: prompt index to the UNet evaluations that an image's mask cost when it was made.
    """

    settings: Mapping[str, object]
    prompts: Mapping[int, str] = field(default_factory=dict)
    masks: MasksByKey = field(default_factory=dict)
    evals: Mapping[int, float] = field(default_factory=dict)

    def add(self, index: int, prompt: str, seeds: Sequence[int], masks: torch.Tensor, evals: float) -> None:
        """Keep the masks of one prompt, a tensor (images, 1, height, width), and what each cost."""
        arrays = masks[:, 0].cpu().numpy().astype(np.float16)
        self.prompts, self.evals = {**self.prompts, index: prompt}, {**self.evals, index: evals}
        self.masks = {**self.masks, **{(index, s): mask for s, mask in zip(seeds, arrays, strict=True)}}

    def has(self, index: int, seeds: Sequence[int]) -> bool:
        return all((index, seed) in self.masks for seed in seeds)

    def get(self, index: int, seeds: Sequence[int]) -> torch.Tensor:
        """Masks of one prompt's images, float32 (images, 1, height, width)."""
        return torch.from_numpy(np.stack([self.masks[index, s] for s in seeds])).float().unsqueeze(1)

    def save(self, path: Path) -> None:
        """Write all masks in the order of their keys, one at a time, through a temporary file.

        Raises:
            ValueError: if they differ in size.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        keys = sorted(self.masks)
        shape = (len(keys), *self.masks[keys[0]].shape)
        text = f"<U{max(1, *map(len, self.prompts.values()))}"
        prompts = (np.array([self.prompts[index]], text) for index, _ in keys)
        arrays: dict[str, np.ndarray | Streamed] = {
            "attention_scores": Streamed(shape, np.float16, self.in_order(keys)),
            "index": np.array([index for index, _ in keys]),
            "seed": np.array([seed for _, seed in keys]),
            "prompt": Streamed((len(keys),), text, prompts),
            "evals": np.array([self.evals[index] for index, _ in keys], float),
            "settings": np.array(json.dumps(self.settings, sort_keys=True)),
        }
        write_npz(path, arrays)

    def in_order(self, keys: Sequence[Key]) -> Iterator[np.ndarray]:
        shape = self.masks[keys[0]].shape
        for key in keys:
            mask = self.masks[key]
            if mask.shape != shape:
                raise ValueError(f"masks differ in size: that of prompt {key[0]} is {mask.shape}, others are {shape}")
            yield mask

    @classmethod
    def read(cls, path: Path) -> "MaskStore":
        """Read a file in our layout, whatever its settings; masks stay in the file until asked for.

        Raises:
            ValueError: one line, if it is no such file.
        """
        if is_original_layout(path):
            raise ValueError(f"mask file {path} is in the original's layout, which says no prompts and seeds")
        try:
            settings = dict(json.loads(str(open_array(path, "settings"))))
            index, seed, evals, prompt, scores = (open_array(path, name) for name in ARRAYS)
            check_arrays(index, seed, evals, prompt, scores)
            first = {i: k for k, i in reversed(list(enumerate(index.tolist())))}  # of a prompt's masks
            prompts = {i: str(prompt[k]) for i, k in first.items()}
            costs = {i: float(evals[k]) for i, k in first.items()}
            keys = list(zip(index.tolist(), seed.tolist(), strict=True))
            return cls(settings, prompts, StoredMasks(keys, scores), costs)
        except READ_ERRORS as error:
            raise ValueError(f"mask file {path} is damaged: {error}") from error


def check_arrays(
    index: np.ndarray, seed: np.ndarray, evals: np.ndarray, prompt: np.ndarray, scores: np.ndarray
) -> None:
    """Raise ValueError where a file's arrays do not have one entry per mask each, or are of other types."""
    arrays = {"i": (index, seed), "f": (evals, scores), "U": (prompt,)}
    right = all(a.dtype.kind == kind for kind, some in arrays.items() for a in some)
    one_each = all(a.shape == (len(scores),) for a in (index, seed, evals, prompt))
    if not (right and scores.ndim == 3 and one_each and all(scores.shape[1:]) and np.isfinite(evals).all()):
        raise ValueError("its arrays do not fit together")


class MaskParts:
    """A folder with one file of our layout per prompt: what a run has made so far, safe from a kill."""

    def __init__(self, folder: Path, settings: Mapping[str, object]):
        self.folder, self.settings = Path(folder), settings

    def path(self, index: int, seeds: Sequence[int]) -> Path:
        return self.folder / f"{index}_{seeds[0]}_{len(seeds)}.npz"

    def add(self, index: int, prompt: str, seeds: Sequence[int], masks: torch.Tensor, evals: float) -> None:
        """Write the masks of one prompt, a tensor (images, 1, height, width), and what each cost."""
        part = MaskStore(self.settings)
        part.add(index, prompt, seeds, masks, evals)
        part.save(self.path(index, seeds))

    def merged(self, paths: Iterable[Path], store: MaskStore | None = None) -> MaskStore:
        """The parts at `paths`, read one after another, and what is in `store`.

        Raises:
            ValueError: if a part is damaged.
        """
        prompts: dict[int, str] = {}
        evals: dict[int, float] = {}
        places: dict[Key, Path] = {}
        for path in paths:
            part = MaskStore.read(path)
            prompts |= part.prompts
            evals |= part.evals
            places |= dict.fromkeys(part.masks, path)
        if store is None:
            return MaskStore(self.settings, prompts, PlacedMasks(places), evals)
        everything: MasksByKey = ChainMap(PlacedMasks(places), store.masks)  # type: ignore[arg-type]  # only read
        return MaskStore(self.settings, {**store.prompts, **prompts}, everything, {**store.evals, **evals})


class PlacedMasks(Mapping):
    """Masks by (prompt index, seed), each read from the file that has it; the last file stays open."""

    def __init__(self, places: Mapping[Key, Path]):
        self.places, self.read = places, lru_cache(1)(MaskStore.read)

    def __getitem__(self, key: Key) -> np.ndarray:
        return self.read(self.places[key]).masks[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
