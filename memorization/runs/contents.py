"""What ties a run to its model, prompts and files: their contents, kept beside the rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from memorization.data.contents import dataset_content
from memorization.errors import InputError, warn
from memorization.files.json_lines import ResultsFile
from memorization.files.whole import WAY_OUT
from memorization.identity import CONTENT, SCHEDULER, content_of_given, lacks_contents, names_of
from memorization.models.contents import pipeline_contents
from memorization.models.schedulers import deciding_values

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

MODELS = ("model_id", "unet_id", "transformer_id", "lora", "embedding")


def run_contents(
    pipe: "DenoisingPipeline", is_given: bool, dataset: str, given: Mapping[str, Path | None]
) -> dict[str, object]:
    """Contents by setting, and the scheduler's values: settings of every run.

    Args:
        is_given: whether the pipeline was handed over loaded, and may have been changed since.
        given: files that decide the numbers, by the setting that names them.

    Raises:
        InputError: if there is no such data set.
    """
    contents = pipeline_contents(pipe, from_memory=is_given)
    contents |= names_of({"dataset": dataset_content(dataset)}) | content_of_given(given)
    return {SCHEDULER: deciding_values(pipe.scheduler), CONTENT: contents}


def model_contents(settings: Mapping[str, object]) -> dict[str, object]:
    """What of a run's contents a bright-ending mask depends on."""
    contents = settings[CONTENT]
    assert isinstance(contents, Mapping)
    return {SCHEDULER: settings[SCHEDULER], CONTENT: {n: contents[n] for n in MODELS if n in contents}}


def warn_of_former_rows(results: ResultsFile, pipe: "DenoisingPipeline") -> None:
    """Say that rows made before contents were kept go on by the names of their model and files.

    Raises:
        InputError: if their scheduler's values were others than now.
    """
    if results.former is None or not lacks_contents(results.former) or not results.done:
        return
    former = f"{results.path} was made before runs kept what their model holds"
    if pipe.loaded_from is not None and not pipe.loaded_from.former_scheduler:
        raise InputError(f"{former}, and its scheduler gave other values then; {WAY_OUT}")
    warn(f"{former}: it goes on, but whether the model and the files have changed is not known")
