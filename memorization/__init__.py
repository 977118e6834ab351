"""Training-data memorization in text-to-image diffusion models: detect it, find it in the image, mitigate it.

Ten names are the library; each is loaded when it is first used, so that reading and evaluating finished runs never
loads a diffusion model's code or opens a GPU.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memorization.api import detect, mitigate
    from memorization.data.prompts import load_prompts
    from memorization.detectors.base import DETECTORS
    from memorization.errors import InputError
    from memorization.finished_runs import read_run
    from memorization.mitigations.base import MITIGATIONS
    from memorization.models.stable_diffusion import load_pipeline
    from memorization.report.evaluate import evaluate
    from memorization.tiles import attention_tiles

HOMES = {
    "load_pipeline": "memorization.models.stable_diffusion",
    "load_prompts": "memorization.data.prompts",
    "detect": "memorization.api",
    "mitigate": "memorization.api",
    "read_run": "memorization.finished_runs",
    "evaluate": "memorization.report.evaluate",
    "attention_tiles": "memorization.tiles",
    "DETECTORS": "memorization.detectors.base",
    "MITIGATIONS": "memorization.mitigations.base",
    "InputError": "memorization.errors",
}
__all__ = [
    "DETECTORS",
    "MITIGATIONS",
    "InputError",
    "attention_tiles",
    "detect",
    "evaluate",
    "load_pipeline",
    "load_prompts",
    "mitigate",
    "read_run",
]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module 'memorization' has no attribute {name!r}; its names are {', '.join(HOMES)}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
