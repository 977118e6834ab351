"""What the explorer has opened: models, known training pictures, evaluators, an index, and the controls so far."""

import argparse
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from memorization.bundled import CLIP, COPY_DESCRIPTOR, GROUND_TRUTH
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.errors import input_errors
from memorization.explorer.asked import Asked
from memorization.explorer.controls import Controls
from memorization.explorer.measures import Measures
from memorization.explorer.models import Models
from memorization.explorer.view import View
from memorization.models.devices import pick_device
from memorization.ordinary import CAPTIONS
from memorization.runs.settings import from_arguments
from memorization.similarity.index.describers import open_as
from memorization.similarity.index.stored import open_index
from memorization.similarity.measure import EvaluatorSettings, open_evaluators

MOST_CONTROLS = 8  # ways of sampling whose controls are kept


@dataclass
class ControlStore:
    """Controls by what their numbers depend on."""

    records: Sequence[PromptRecord]
    source: str
    kept: "OrderedDict[object, Controls]" = field(default_factory=OrderedDict)

    def get(self, asked: Asked) -> Controls | None:
        return self.kept.get(key_of(asked))

    def keep(self, asked: Asked, controls: Controls) -> None:
        self.kept[key_of(asked)] = controls
        while len(self.kept) > MOST_CONTROLS:
            self.kept.popitem(last=False)


def key_of(asked: Asked) -> object:
    return asked.chosen, asked.num_inference_steps, asked.guidance_scale


@dataclass
class World:
    """Everything that the views of all sessions share.

    Attributes:
        dataset: as --dataset takes it; None without known training pictures.
        records: its prompts.
        evaluator_settings: what `measures` was opened by, for command lines.
        lock: held by whoever uses the model.
    """

    models: Models
    dataset: str | None
    records: Sequence[PromptRecord]
    measures: Measures
    evaluator_settings: EvaluatorSettings
    controls: ControlStore
    index: Path | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "World":
        """Open all that a command line names, but for the model.

        Raises:
            InputError: one line for what cannot be had.
        """
        models = Models.from_args(args)
        is_bundled = models.is_own_bundled
        dataset = args.dataset or (str(GROUND_TRUTH) if is_bundled else None)
        settings = evaluators_of(args, is_bundled)
        index = None
        if args.index is not None:
            stored = open_index(args.index)
            index = (stored, open_as(stored, args.sscd, args.sscd_preprocessing))
        ordinary = args.ordinary or str(CAPTIONS)
        records = [] if args.num_controls == 0 else load_prompts(ordinary, 0, args.num_controls)
        return cls(
            models,
            dataset,
            [] if dataset is None else load_prompts(dataset),
            Measures(open_evaluators(settings), index),
            settings,
            ControlStore(records, ordinary),
            args.index,
        )

    def view_of(self, asked: Asked) -> View:
        """An empty view; the prompt with its training pictures, where they are known."""
        for place, record in enumerate(self.records):
            if record.prompt == asked.prompt:
                return View(asked, record, place)
        return View(asked, asked.record)


def evaluators_of(args: argparse.Namespace, is_bundled: bool) -> EvaluatorSettings:
    """The evaluators that are given, and with the bundled model its own where none is."""
    with input_errors():
        given = from_arguments(EvaluatorSettings, args, lpips=False, device=pick_device(args.device))
    if is_bundled and not given.are_any:
        return replace(given, sscd=COPY_DESCRIPTOR, reference_model=str(CLIP))
    return given
