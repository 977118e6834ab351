"""Where the bundled model, its prompts and its evaluators lie, wherever the clone or the installed package is."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLANTED = ROOT / "planted"
MODEL = PLANTED / "planted_sd"
GROUND_TRUTH = PLANTED / "planted_mem_groundtruth"
DOSES_GROUND_TRUTH = PLANTED / "planted_doses_groundtruth"
COPY_DESCRIPTOR = PLANTED / "planted_evaluators" / "copy_descriptor.torchscript.pt"
CLIP = PLANTED / "planted_evaluators" / "planted_clip"
# Folders that commands and settings name the bundled files by; they lay in the second until 2026-11.
FOLDERS = (PLANTED.name, "examples")


def find_bundled(path: str | Path) -> Path:
    """The path as given where it exists, else the bundled file that it names: by its name or by either folder."""
    path = Path(path)
    parts = path.parts[1:] if path.parts[:1] and path.parts[0] in FOLDERS else path.parts
    bundled = PLANTED.joinpath(*parts)
    return bundled if not path.exists() and parts and bundled.exists() else path


def bundled_name(value: object) -> object:
    """What settings call a path: the bundled files by name, so that a moved clone is the same; others as given."""
    path = Path(value) if isinstance(value, str | Path) else None
    if path is not None and path.parent.name in FOLDERS and (PLANTED / path.name).exists():
        return path.name
    return str(value) if isinstance(value, Path) else value


def same_setting(a: object, b: object) -> bool:
    """Whether two values of a setting mean the same, a bundled file being the same wherever its clone lies."""
    return bundled_name(a) == bundled_name(b)
