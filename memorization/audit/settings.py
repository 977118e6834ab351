"""What an audit is asked for, by the names of its command line."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from memorization.bundled import COPY_DESCRIPTOR, MODEL, bundled_name
from memorization.errors import InputError
from memorization.runs.settings import RunSettings, from_arguments
from memorization.similarity.index.describers import DescriberSettings
from memorization.similarity.measure import EvaluatorSettings

# Options that an audit passes on to its runs; the others of a run are the audit's own to set.
OWN = ("dataset", "run_name", "num_images_per_prompt", "output_dir", "base_model_id")
PASSED_ON = tuple(f.name for f in fields(RunSettings) if f.name not in OWN)


@dataclass(frozen=True)
class AuditSettings:
    """What is audited and how.

    Attributes:
        run_options: of every run: the model, its sampling and the device, by the names of the command line.
        training_data: captioned pictures, as --dataset takes them.
        controls: prompts that were not trained on; None makes some out of the captions' words.
        num_images_per_prompt: of every caption and control, in the screen as in the generation.
        num_controls: captions that are made where none are given, and the most that are taken of those given.
        num_copy_controls: of them, how many are generated as what is no copy.
        num_unflagged: captions that are generated although the screen did not flag them, to bound what it misses.
        duplicates: cosine from which two training pictures are near-duplicates.
        fdr: share of false ones that is allowed among captions that give a copy; the screen decides by it too, and
            flags what scores above every control besides.
        method, strength: a mitigation that the flagged captions are generated under again; None for none.
        fail_above: exit code 1 where more training pictures come back; None never fails.
    """

    training_data: str
    output: Path
    run_options: Mapping[str, Any]
    sscd: Path | None = None
    sscd_preprocessing: str | None = None
    base_model_id: str | None = None
    controls: str | None = None
    num_images_per_prompt: int = 4
    num_controls: int = 1000
    num_copy_controls: int = 100
    num_unflagged: int = 100
    duplicates: float = 0.9
    fdr: float = 0.05
    method: str | None = None
    strength: float | None = None
    fail_above: int | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "AuditSettings":
        """
        Raises:
            InputError: if there is nothing that tells copies, or a strength without a method.
        """
        if args.strength is not None and args.method is None:
            raise InputError(f"--strength {args.strength:g} is of a mitigation: name one by --method")
        sscd = args.sscd
        if sscd is None and bundled_name(args.model_id) != MODEL.name:
            raise InputError("copies are told by a copy descriptor: give SSCD's weights by --sscd")
        given = vars(args)
        options = {name: given[name] for name in PASSED_ON if name in given}
        return from_arguments(cls, args, run_options=options, sscd=sscd or COPY_DESCRIPTOR)

    @property
    def model(self) -> RunSettings:
        """What the model is loaded by."""
        return RunSettings(dataset="", num_images_per_prompt=1, base_model_id=self.base_model_id, **self.run_options)

    @property
    def describer(self) -> DescriberSettings:
        """What opens the copy descriptor for the index."""
        return DescriberSettings(sscd=self.sscd, sscd_preprocessing=self.sscd_preprocessing)

    @property
    def evaluators(self) -> EvaluatorSettings:
        return EvaluatorSettings(sscd=self.sscd, sscd_preprocessing=self.sscd_preprocessing)

    @property
    def device(self) -> str:
        return str(self.run_options["device"])

    @property
    def seed(self) -> int:
        """Of what is drawn: controls and the sample of captions that are not flagged."""
        return int(str(self.run_options["gen_seed"]))

    @property
    def score(self) -> str:
        """Row key of the score that captions are screened by: D, or what tuning added to it where a base is given."""
        return "text_noise_norm" if self.base_model_id is None else "tuned_minus_base"
