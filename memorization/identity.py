"""What a run is tied to: the content of models, data sets and files, wherever they lie, rather than their paths.

Contents are hashes of what decides the numbers. A file is read once: its hash is kept in a cache under its path, size,
times and inode; a large file of the hub's cache is named by its hash already. The cache lies in $MEMORIZATION_CACHE,
else in `memorization` of $XDG_CACHE_HOME or ~/.cache; where that cannot be written, files are read again each time.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memorization.bundled import same_setting

if TYPE_CHECKING:
    import torch

CONTENT, SCHEDULER = "content", "scheduler"  # settings that hold contents by name, and the scheduler's values
MODEL_PARTS = (
    "model_id",
    "unet_id",
    "transformer_id",
    "vae_id",
    "lora",
    "embedding",
    "config",
)  # settings that say which model it is
REVISIONS = "revisions"  # setting that holds those of the methods
CACHE_VARIABLE, CACHE_FILE = "MEMORIZATION_CACHE", "contents.json"
BLOCK = 1 << 22  # bytes read at once
SETTLED = 2.0  # seconds after which a file's time tells a later change apart
MOST_KEPT = 50_000  # files in the cache
SHOWN = 12  # characters of a content in messages
# Of config files, what says who wrote them and in which type, which the weights say themselves.
NOT_DECIDING = ("_diffusers_version", "_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype")


# Hashing


def cache_file() -> Path:
    """Where the hashes of files are kept."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given) / CACHE_FILE
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "memorization" / CACHE_FILE


class FileHashes:
    """Hashes of files, each read when it is new or has changed.

    Attributes:
        known: by real path, what identified the file when it was read, and its hash.
        new: those that were read since the cache was.
        num_read: how many files were read.
    """

    def __init__(self, cache: Path | None = None):
        self.cache = cache_file() if cache is None else cache
        self.known = read_cache(self.cache)
        self.new: dict[str, list] = {}
        self.num_read = 0

    def of(self, path: Path) -> str:
        """SHA-256 of a file; of a config.json without what does not decide.

        Raises:
            OSError: if it cannot be read.
        """
        real = os.path.realpath(path)
        if path.name != "config.json" and is_blob(real):
            return os.path.basename(real)
        stamp = stamp_of(real)
        kept = self.known.get(f"{real}:{path.name}")  # a blob of the hub has no name of its own
        if kept is not None and kept[:-1] == stamp:
            return kept[-1]
        self.num_read += 1
        found = hash_config(real) if path.name == "config.json" else hash_file(real)
        is_settled = time.time() - stamp[1] / 1e9 > SETTLED
        if is_settled and stamp == stamp_of(real):
            self.new[f"{real}:{path.name}"] = [*stamp, found]
        return found

    def save(self) -> None:
        """Add what was read to the cache; where it cannot be written, nothing is kept."""
        if not self.new:
            return
        with contextlib.suppress(OSError):
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            entries = read_cache(self.cache) | self.new  # another process may have written
            text = json.dumps(dict(list(entries.items())[-MOST_KEPT:]))
            temporary = self.cache.with_name(f"{self.cache.name}.{os.getpid()}.tmp")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.cache)


def is_blob(real: str) -> bool:
    """Whether a path is of a large file in the hub's cache, which is named by its SHA-256."""
    folder, name = os.path.split(real)
    return os.path.basename(folder) == "blobs" and re.fullmatch("[0-9a-f]{64}", name) is not None


def read_cache(path: Path) -> dict[str, list]:
    """Entries of a cache file; none where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {k: v for k, v in found.items() if isinstance(v, list) and v and isinstance(v[-1], str)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def stamp_of(path: str) -> list[int]:
    """What tells whether a file has changed: size, times of content and of state, and inode."""
    state = os.stat(path)
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def hash_file(path: str) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def hash_config(path: str) -> str:
    """Of a config's values, in whatever order; of the bytes where it is no JSON object."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        kept = {key: value for key, value in values.items() if key not in NOT_DECIDING}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    except (ValueError, AttributeError, RecursionError):
        return hash_file(path)


def content_of_files(files: Iterable[Path], root: Path | None = None, hashes: FileHashes | None = None) -> str | None:
    """Content of files as one: `files:` and a hash of each one's name below `root` and bytes.

    Args:
        root: folder whose place does not count; without it, names do not count at all.

    Returns:
        None where there are no files, or one cannot be read, which whoever opens it says in better words.
    """
    hashes = FileHashes() if hashes is None else hashes
    try:
        parts = [("" if root is None else path.relative_to(root).as_posix(), hashes.of(path)) for path in files]
    except OSError:
        return None
    hashes.save()
    if not parts:
        return None
    return f"files:{hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()}"


def content_of_tensors(tensors: Mapping[str, "torch.Tensor"]) -> str:
    """Content of weights in memory, `tensors:` and a hash of names, types and bytes: of a pipeline without a folder."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return f"tensors:{digest.hexdigest()}"


# Comparing


def content(settings: Mapping[str, Any], name: str) -> str | None:
    """What a setting of a run had as its content; None where that was not recorded."""
    contents = settings.get(CONTENT)
    found = contents.get(name) if isinstance(contents, Mapping) else None
    return found if isinstance(found, str) else None


def both_contents(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str] | None:
    """The contents of a setting in both, where they are there and of one kind; None where the names have to do."""
    a, b = content(old, name), content(new, name)
    return (a, b) if a is not None and b is not None and a.split(":")[0] == b.split(":")[0] else None


def is_same(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a setting means the same in both: by content where both have it, else as it is called.

    A run that was made before contents and schedulers were kept says nothing of them.
    """
    if name == CONTENT:  # compared under the names of what they are of
        return True
    if name == SCHEDULER:
        return old.get(name) is None or new.get(name) is None or old[name] == new[name]
    found = both_contents(name, old, new)
    return found[0] == found[1] if found is not None else same_setting(old.get(name), new.get(name))


def differing(old: Mapping[str, Any], new: Mapping[str, Any], names: Iterable[str] | None = None) -> list[str]:
    """Names of the settings that do not mean the same in both; by default of all there are."""
    return [n for n in (sorted(old.keys() | new.keys()) if names is None else names) if not is_same(n, old, new)]


def pair_text(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str]:
    """A setting's two values in messages; where the names are the same, with what they stand for."""
    a, b = old.get(name), new.get(name)
    if name == SCHEDULER and isinstance(a, Mapping) and isinstance(b, Mapping):
        changed = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
        return tuple(", ".join(f"{key} {v.get(key)!r}" for key in changed) for v in (a, b))  # type: ignore[return-value]
    found = both_contents(name, old, new)
    if found is None or not same_setting(a, b):
        return repr(a), repr(b)
    shown = [f"{a!r} (content {f.split(':')[-1][:SHOWN]})" for f in found]
    return shown[0], shown[1]


def change_text(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """A setting that differs, in words: as `name old -> new`, or that what it names has changed."""
    a, b = pair_text(name, old, new)
    if name == REVISIONS:
        (one, other) = ({} if v.get(name) is None else v[name] for v in (old, new))
        changed = sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))
        return f"what {', '.join(changed)} computes has changed since"
    if name != SCHEDULER and same_setting(old.get(name), new.get(name)):
        names = {"model_id": "the model", "unet_id": "the UNet", "vae_id": "the VAE", "dataset": "the data set"}
        names["transformer_id"] = "the transformer"
        what = names.get(name, "the file")
        return f"{what} {old.get(name)!r} of {name} has changed since"
    return f"{name} {a} -> {b}"


def lacks_contents(settings: Mapping[str, Any]) -> bool:
    """Whether settings are of a run made before contents were kept."""
    return not isinstance(settings.get(CONTENT), Mapping)


def names_of(contents: Mapping[str, str | None]) -> dict[str, str]:
    """Contents that there are, by the setting's name."""
    return {name: found for name, found in contents.items() if found is not None}


def content_of_given(given: Mapping[str, Path | None]) -> dict[str, str]:
    """Contents of files that settings name, by the setting's name."""
    return names_of({name: content_of_files([Path(path)]) for name, path in given.items() if path is not None})
