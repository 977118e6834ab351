"""Model folders that differ from another in a file or two."""

import json
import os
from pathlib import Path

from safetensors.torch import load_file, save_file

from memorization.bundled import MODEL


def model_copy(target, model=MODEL, edits=None, scheduler=None):
    """A folder whose files are links to another's; `edits` change values of its JSON files, by path."""
    for path in Path(model).rglob("*"):
        if path.is_file():
            link = target / path.relative_to(model)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path.resolve(), link)
    if scheduler is not None:
        set_scheduler(target, scheduler)
    for name, values in (edits or {}).items():
        write_json(target / name, json.loads((target / name).read_text()) | values)
    return target


def set_scheduler(folder, config):
    """Give a folder a scheduler: its whole config, class name included."""
    write_json(folder / "scheduler" / "scheduler_config.json", config)
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", index | {"scheduler": ["diffusers", config["_class_name"]]})


def write_json(path, values):
    path.unlink(missing_ok=True)  # never through the link
    path.write_text(json.dumps(values))


def change_weights(path, change, target=None):
    """Rewrite a file of weights: `change` gets the dict of tensors and changes it."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    path.unlink()
    save_file(tensors, target or path, {"format": "pt"})
