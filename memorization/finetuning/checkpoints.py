"""Where a training is taken up again: everything that its next step depends on, whole or not there."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator

from memorization.errors import InputError
from memorization.finetuning.examples import Example

FOLDER, FRESH = "checkpoint", "checkpoint_next"
FILE = "progress.json"
FORMER_FILE = "steps.txt"  # of checkpoints that did not know what they were trained by


@dataclass
class Progress:
    """How far a training is: its steps, and of this process's samples those that were left out."""

    steps: int = 0
    samples: int = 0
    dropped: int = 0


def digest_of(examples: Sequence[Example]) -> str:
    """A hash of what is trained on, but for the pixels and where they lie."""
    told = [(e.captions, e.own_captions, e.weight) for e in examples]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def load_checkpoint(accelerator: Accelerator, output: Path, identity: Mapping[str, object]) -> Progress:
    """Take up the last checkpoint, where there is one.

    Raises:
        InputError: if it is of another training.
    """
    path, fresh = output / FOLDER, output / FRESH
    if accelerator.is_main_process and not path.exists() and (fresh / FILE).exists():  # killed between the two
        fresh.rename(path)
    accelerator.wait_for_everyone()
    if (path / FORMER_FILE).exists():
        raise InputError(f"{path} is of an earlier version; choose another --output")
    if not (path / FILE).exists():
        return Progress()
    kept = json.loads((path / FILE).read_text(encoding="utf-8"))
    refuse_other(path, kept["identity"], json.loads(json.dumps(identity)))
    accelerator.load_state(str(path))
    return Progress(**kept["progress"])


def refuse_other(path: Path, kept: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """
    Raises:
        InputError: if a checkpoint was trained by other settings.
    """
    for name in [*wanted, *(name for name in kept if name not in wanted)]:
        if kept.get(name) != wanted.get(name):
            told = f"{name} {kept.get(name)}, not {wanted.get(name)}"
            raise InputError(f"{path} was trained with {told}; choose another --output to begin anew")


def save_checkpoint(accelerator: Accelerator, output: Path, identity: Mapping[str, object], progress: Progress) -> None:
    """Write beside the old checkpoint and swap, so that a kill leaves one of them whole."""
    path, fresh = output / FOLDER, output / FRESH
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        text = json.dumps({"progress": asdict(progress), "identity": identity}, indent=1)
        (fresh / FILE).write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(path, ignore_errors=True)
        fresh.rename(path)
    accelerator.wait_for_everyone()
