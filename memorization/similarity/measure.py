"""Every measure of a run's images: against the training images, against the prompt, and of one another."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord
from memorization.errors import input_errors
from memorization.finished_runs import Run
from memorization.similarity.descriptors import (
    ClipSimilarity,
    CopyDescriptor,
    PerceptualDistance,
    refuse_missing_clip,
)
from memorization.similarity.inception import InceptionDistances
from memorization.similarity.nearest import COSINE, SIMILARITIES
from memorization.similarity.pixels import (
    COPY_SIMILARITY,
    LOCAL_COPY,
    copy_similarity,
    local_similarity,
    seed_diversity,
    similarity_to_references,
)
from memorization.similarity.preprocessing import PREPROCESSING

MEASURES = {
    "sscd": "SSCD",
    "copied": f"share SSCD > {COPY_SIMILARITY}",
    "clip": "CLIP",
    "ls": "LS",
    "s": "S",
    "local_copied": f"share LS > {LOCAL_COPY}",
    "lpips": "LPIPS",
    "pixel": "pixel similarity",
    "diversity": "diversity",
}


def add_descriptor_options(group: argparse._ActionsContainer) -> None:
    """What copies are looked for with."""
    text = "copy descriptor such as SSCD: a TorchScript file, an .onnx file, or immaculate for that package's"
    group.add_argument("--sscd", type=Path, help=text)
    text = "part of the metric; by default wen, or bytes_288 where an .onnx file takes bytes"
    group.add_argument("--sscd_preprocessing", choices=PREPROCESSING, help=text)


def add_copy_options(group: argparse._ActionsContainer) -> None:
    """How copies are told from what is only alike."""
    add = group.add_argument
    add("--similarity", default=COSINE, choices=SIMILARITIES, help="as it is, or less that to a background set")
    text = "folder of pictures, or a run, neither trained on nor compared, for score_normalised"
    add("--background", type=Path, metavar="RUN_OR_FOLDER", help=text)
    add_descriptor_options(group)


def add_evaluator_options(group: argparse._ActionsContainer) -> None:
    """What images are measured with, in inference_mem.py and eval_mem.py."""
    add_descriptor_options(group)
    group.add_argument("--reference_model", help="open_clip model for CLIP similarity, or a folder with one")
    group.add_argument("--reference_model_pretrain", default="laion2b_s12b_b42k", help="its weights: tag or file")


@dataclass(frozen=True)
class EvaluatorSettings:
    """Which evaluators are wanted, by the names of the command line."""

    sscd: Path | None = None
    sscd_preprocessing: str | None = None
    reference_model: str | None = None
    reference_model_pretrain: str = "laion2b_s12b_b42k"
    lpips: bool = False
    quality_reference: Path | str | None = None
    quality_model: str | None = None
    quality_model_pretrain: str = "openai"
    fid: bool = False
    device: str = "cpu"

    @property
    def are_any(self) -> bool:
        return self.sscd is not None or self.reference_model is not None

    def refuse_missing_files(self) -> None:
        """
        Raises:
            InputError: if a path of a CLIP model or its weights does not exist.
        """
        if self.reference_model is not None:
            with input_errors():
                refuse_missing_clip(self.reference_model, self.reference_model_pretrain)

    def open_descriptor(self) -> CopyDescriptor | None:
        """
        Raises:
            InputError: if the descriptor cannot be had.
        """
        if self.sscd is None:
            return None
        with input_errors():
            return CopyDescriptor(self.sscd, self.sscd_preprocessing, self.device)

    def open_clip(self) -> ClipSimilarity | None:
        """
        Raises:
            InputError: if the model or its weights cannot be had.
        """
        if self.reference_model is None:
            return None
        with input_errors():
            return ClipSimilarity(self.reference_model, self.reference_model_pretrain, self.device)

    def open_perceptual(self) -> PerceptualDistance | None:
        """
        Raises:
            InputError: if the package lpips or its weights are not there.
        """
        if not self.lpips:
            return None
        with input_errors():
            return PerceptualDistance(self.device)

    def open_quality_clip(self) -> ClipSimilarity | None:
        """
        Raises:
            InputError: if the model or its weights cannot be had.
        """
        if self.quality_model is None:
            return None
        with input_errors():
            return ClipSimilarity(self.quality_model, self.quality_model_pretrain, self.device)

    def open_inception(self) -> InceptionDistances | None:
        """
        Raises:
            InputError: if the package torchmetrics or the weights of Inception are not there.
        """
        if not self.fid:
            return None
        with input_errors():
            return InceptionDistances(self.device)


@dataclass(frozen=True)
class Evaluators:
    """What images are measured with; None leaves the measure out. `masks` are for LS: (index, seed) to array.

    Quality is measured against `quality_reference`, a result file or a folder, by default plain generation among the
    runs; CMMD's features are those of `quality_clip`, or else of `clip`.
    """

    descriptor: CopyDescriptor | None = None
    clip: ClipSimilarity | None = None
    perceptual: PerceptualDistance | None = None
    masks: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)
    quality_reference: Path | None = None
    quality_clip: ClipSimilarity | None = None
    inception: InceptionDistances | None = None

    def describe(self) -> str:
        """What has to stand beside the numbers."""
        named = {"SSCD": self.descriptor, "CLIP": self.clip, "LPIPS": self.perceptual}
        parts = [f"{name}: {tool.description}" for name, tool in named.items() if tool is not None]
        if self.descriptor is not None:
            parts.append("SSCD is the maximum over training images, then the mean over generations")
        if self.masks:
            parts.append("LS: mask of the unmitigated image over its maximum, pixels in [0, 1], scaled to 512 px")
        return "; ".join(parts)


def open_evaluators(
    settings: EvaluatorSettings, masks: Mapping[tuple[int, int], np.ndarray] | None = None
) -> Evaluators:
    """The evaluators that settings name, with the masks that LS weighs with where there are any.

    Raises:
        InputError: if one of them cannot be had.
    """
    return Evaluators(
        settings.open_descriptor(),
        settings.open_clip(),
        settings.open_perceptual(),
        masks or {},
        None if settings.quality_reference is None else Path(settings.quality_reference),
        settings.open_quality_clip(),
        settings.open_inception(),
    )


def measure_run(
    run: Run, rows: Sequence[Mapping], evaluators: Evaluators, records: Mapping[int, PromptRecord]
) -> list[dict]:
    """Every measure of every image of some rows of a run: one dict per prompt.

    Prompts without training images get CLIP alone.

    Returns:
        List of dicts with index, prompt, kind and, for each measure that the evaluators give, a list with
        one number per image (`diversity`: one number per prompt).
    """
    with tqdm(rows, desc=run.key, unit="prompt") as bar:  # closed on a fault, so that its line stands alone
        return [measure_row(run, row, evaluators, records[row["index"]]) for row in bar]


def measure_row(run: Run, row: Mapping, evaluators: Evaluators, record: PromptRecord) -> dict:
    return measure_images(run.images(row), row, evaluators, record)


def measure_images(images: np.ndarray, row: Mapping, evaluators: Evaluators, record: PromptRecord) -> dict:
    """Every measure of one prompt's images, as `measure_run` gives them.

    Args:
        images: uint8 (images, height, width, 3).
        row: with index, prompt, seeds and, where it is known, kind.
    """
    references = [read_image(path) for path in record.reference_images]
    result = {"index": row["index"], "prompt": row["prompt"], "kind": row.get("kind") or "all"}
    if evaluators.clip is not None:
        result["clip"] = evaluators.clip(images, row["prompt"])
    if not references:
        return result
    result["pixel"] = similarity_to_references(images, record)
    if evaluators.descriptor is not None:
        descriptors = evaluators.descriptor(list(images))
        sscd = copy_similarity(descriptors, evaluators.descriptor(references)).tolist()
        result |= {"sscd": sscd, "copied": [float(v > COPY_SIMILARITY) for v in sscd]}
        result |= {"s": local_similarity(images, references, sscd), "diversity": [seed_diversity(descriptors)]}
        keys = [(row["index"], seed) for seed in row["seeds"]]
        if evaluators.masks:
            result["ls"] = local_similarity(images, references, sscd, np.stack([evaluators.masks[k] for k in keys]))
            result["local_copied"] = [float(v > LOCAL_COPY) for v in result["ls"]]
    if evaluators.perceptual is not None:
        result["lpips"] = evaluators.perceptual(images, references)
    return result
