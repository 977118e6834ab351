"""Where the bundled model, its prompts and its evaluators lie, wherever the clone or the installed package is."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLANTED = ROOT / "planted"
MODEL = PLANTED / "planted_sd"
GROUND_TRUTH = PLANTED / "planted_mem_groundtruth"
COPY_DESCRIPTOR = PLANTED / "planted_evaluators" / "copy_descriptor.torchscript.pt"
CLIP = PLANTED / "planted_evaluators" / "planted_clip"
FORMER_FOLDER = "examples"  # where the bundled files lay until 2026-11, as old commands and settings name them


def bundled_name(value: object) -> object:
    """What settings call a path: the bundled files by name, so that a moved clone is the same; others as given."""
    path = Path(value) if isinstance(value, str | Path) else None
    if path is not None and path.parent.name in (PLANTED.name, FORMER_FOLDER) and (PLANTED / path.name).exists():
        return path.name
    return str(value) if isinstance(value, Path) else value
