"""Audit a model against the pictures it was trained on: which of them come back, in one command.

    python audit_mem.py
    python audit_mem.py MODEL --training_data PICTURES --sscd sscd_disc_large.torchscript.pt
    python audit_mem.py MODEL --lora mine.safetensors --base_model_id own --training_data PICTURES --sscd FILE

Pictures are indexed, and near-duplicates among them listed. Every caption is screened at the first step, against
captions that were not trained on; what is flagged, and a random sample of what is not, is generated and compared with
all training pictures, against generations that are no copies. The page report.html has the verdict first; audit.json
has it for programs. The same command after an interruption goes on where it stopped.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

import detect_mem
import inference_mem
from local_sd_pipeline import DenoisingPipeline
from memorization.audit.captions import (
    TrainingSet,
    read_controls,
    read_training_set,
    recombined_captions,
    write_prompts,
)
from memorization.audit.screening import Screened, decide_captions
from memorization.audit.sections import verdict_section
from memorization.audit.settings import AuditSettings
from memorization.audit.untested import not_tested, pictures_of_controls
from memorization.audit.verdict import Verdict, judge
from memorization.bundled import DOSES_GROUND_TRUTH
from memorization.data.prompts import PromptRecord
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.evaluation.copies import CopySettings, evaluate_copies
from memorization.files.whole import WAY_OUT, make_folder, write_text
from memorization.finished_runs import Run, stored_masks
from memorization.mitigations.options import refuse_undefined_method
from memorization.plugins import add_plugin_option, load_plugins
from memorization.report.copies_section import section_of_copies
from memorization.report.duplicates_section import duplicates_section
from memorization.report.page import render_page
from memorization.report.section import Section
from memorization.report.sections import decisions_section
from memorization.runs.arguments import (
    HelpFormatter,
    add_model_options,
    add_sampling_options,
    arguments_of,
    image_count,
    natural_float,
    natural_int,
    positive_int,
    rate,
)
from memorization.runs.indexing import build_index
from memorization.runs.mitigation_settings import MitigationSettings
from memorization.runs.models import load_model
from memorization.runs.settings import OWN_BASE
from memorization.runs.workers import Processes
from memorization.similarity.index.groups import similar_groups
from memorization.similarity.measure import add_descriptor_options
from memorization.tables import plain

REPORT, RESULTS, LOG = "report.html", "audit.json", "runs.log"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("model_id", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help="as --model_id")
    add = parser.add_argument_group("audit").add_argument
    text = "what the model was trained on: pictures with their captions, in any form that --dataset takes"
    add("--training_data", default=str(DOSES_GROUND_TRUTH), help=text)
    text = "model before tuning, for what the tuning added: as --model_id, or `own` for it without what is added to it"
    add("--base_model_id", help=text)
    text = "captions that were not trained on, of the same kind, best with their pictures; by default made of the "
    text += "captions' words"
    add("--controls", metavar="DATASET", help=text)
    add("--num_controls", type=positive_int, default=1000, help="of them, at most")
    text = "of them, generated as what is no copy; with a base, its images of the captions are"
    add("--num_copy_controls", type=positive_int, default=100, help=text)
    text = "captions that are generated although they are not flagged, to bound what the screen misses"
    add("--num_unflagged", type=positive_int, default=100, help=text)
    add(
        "--num_images_per_prompt",
        type=image_count,
        default=4,
        help="of every caption and control, screened and generated",
    )
    add("--duplicates", type=rate, default=0.9, help="cosine from which two training pictures are near-duplicates")
    add(
        "--fdr",
        type=rate,
        default=0.05,
        help="share of false ones among captions that give a copy, and among those that the screen decides",
    )
    add("--method", help="a mitigation of inference_mem.py: flagged captions are generated under it and judged again")
    add("--strength", type=natural_float, help="of it, by default as released")
    add("--fail_above", type=natural_int, metavar="N", help="exit code 1 where more training pictures come back")
    add("--output", type=Path, default=Path("audit_outputs"), help="folder of the page, the numbers and the runs")
    add_descriptor_options(parser.add_argument_group("copies"))
    add_plugin_option(parser)
    add_model_options(parser.add_argument_group("model").add_argument)
    add_sampling_options(parser.add_argument_group("sampling").add_argument)
    return parser


@dataclass(frozen=True)
class Stages:
    """The runs of an audit, one after the other; each goes on by itself where it was cut off.

    Attributes:
        training: the pictures with their captions.
        controls: captions that were not trained on, by their numbers.
        pipe: the model; its `base` is the model before tuning, where one is given.
    """

    settings: AuditSettings
    training: TrainingSet
    controls: Mapping[int, PromptRecord]
    pipe: DenoisingPipeline
    processes: Processes

    def options(self, name: str, prompts: Mapping[int, str], kinds: Mapping[int, str] | None = None) -> dict:
        """Options of a run of some prompts, whose file is written."""
        path = self.settings.output / "prompts" / f"{name}.jsonl"
        with self.processes.main_first():
            if self.processes.is_main:
                write_prompts(path, prompts, kinds)
        return {
            **self.settings.run_options,
            "dataset": str(path),
            "end": len(prompts),
            "run_name": name,
            "output_dir": self.settings.output,
            "num_images_per_prompt": self.settings.num_images_per_prompt,
            "store_img_npz": False,
        }

    def screen(self) -> Screened:
        """Every caption at the first step, against the controls."""
        s = self.settings
        how: dict[str, Any] = {"run_version": "baseline", "early_exit": 1}
        if s.base_model_id is not None:
            how |= {"base_model_id": s.base_model_id, "scores": s.score}
        captions = {index: caption for caption, index in self.training.captions.items()}
        controls = self.detect(**self.options("controls", {k: r.prompt for k, r in self.controls.items()}), **how)
        screen = self.detect(**self.options("screen", captions), **how)
        return decide_captions(screen, controls, s.score, s.fdr, s.num_unflagged, s.seed)

    def generate(self, kinds: Mapping[int, str]) -> Run:
        """The captions of some indices, with masks."""
        return self.detect(**self.options("generated", self.prompts_of(kinds), kinds))

    def generate_controls(self, kinds: Mapping[int, str]) -> Run:
        """What is no copy: images of each caption by the base, where there is one; else of the controls."""
        s = self.settings
        if s.base_model_id is None:
            prompts = {k: r.prompt for k, r in self.controls.items() if k < s.num_copy_controls}
            return self.detect(**self.options("copy_controls", prompts))
        added = {"unet_id": None, "transformer_id": None, "vae_id": None, "lora": None, "embedding": None}
        model = {} if s.base_model_id == OWN_BASE else {"model_id": s.base_model_id, "config": None}
        options = self.options("base", self.prompts_of(kinds)) | added | model
        return self.detect(self.pipe.base, **options)

    def mitigate(self, flagged: Sequence[int]) -> list[Run]:
        """The flagged captions under the mitigation; nothing without one, or without any."""
        s = self.settings
        if s.method is None or not flagged:
            return []
        options = self.options("mitigated", self.prompts_of(flagged))
        with self.as_part():
            return [inference_mem.run(self.pipe, self.processes, method=s.method, strength=s.strength, **options)]

    def detect(self, pipe: DenoisingPipeline | None = None, **options: object) -> Run:
        with self.as_part():
            return detect_mem.run(pipe or self.pipe, self.processes, **options)

    @contextmanager
    def as_part(self) -> Iterator[None]:
        """What a run says at its end goes to a file, so that the verdict is not lost among it; progress stays.

        Raises:
            InputError: that of the run; what was made with other settings has another way out here.
        """
        with (self.settings.output / LOG).open("a") as log, redirect_stdout(log):
            try:
                yield
            except InputError as error:
                raise InputError(str(error).replace(WAY_OUT, "give another --output")) from error

    def prompts_of(self, indices: Iterable[int]) -> dict[int, str]:
        return {index: self.training.records[index].prompt for index in sorted(indices)}


def chosen_controls(training: TrainingSet, settings: AuditSettings) -> dict[int, PromptRecord]:
    """Captions that were not trained on, numbered anew: given ones, or made out of the words of those that were."""
    if settings.controls is not None:
        return dict(enumerate(read_controls(settings.controls, training, settings.num_controls)))
    return dict(enumerate(recombined_captions(training.captions, settings.num_controls, settings.seed)))


def chosen_mitigation(settings: AuditSettings) -> MitigationSettings | None:
    """The mitigation as inference_mem.py has it; None without one.

    Raises:
        InputError: if inference_mem.py would refuse it.
    """
    if settings.method is None:
        return None
    chosen = {"method": settings.method, "strength": settings.strength}
    return MitigationSettings.from_args(arguments_of(inference_mem.make_parser(), chosen))


def refuse_too_few_controls(settings: AuditSettings, training: TrainingSet, num_controls: int) -> None:
    """
    Raises:
        InputError: if nothing could be called a copy, whatever came of it.
    """
    has_base = settings.base_model_id is not None
    count = len(training.captions) if has_base else min(num_controls, settings.num_copy_controls)
    enough = math.ceil(1 / settings.fdr - 1 - 1e-9)
    if count < enough:
        what = "captions, whose images by the base are controls" if has_base else "controls of copies"
        remedy = "give" if has_base else "give more --controls and --num_copy_controls, or"
        told = f"with {count} {what}, nothing is ever a copy at --fdr {settings.fdr:g}, which takes {enough}"
        raise InputError(f"{told}; {remedy} --fdr {math.ceil(1000 / (count + 1)) / 1000:g} or more")


def audit(settings: AuditSettings) -> Verdict | None:
    """Screen, generate, compare and write the page; None in a process that is not the main one.

    Raises:
        InputError: one line, before the work where it can be known then.
    """
    # Whatever can be refused is opened before the work.
    make_folder(settings.output, "--output")
    training = read_training_set(settings.training_data)
    controls = chosen_controls(training, settings)
    refuse_too_few_controls(settings, training, len(controls))
    mitigation = chosen_mitigation(settings)
    descriptor = settings.evaluators.open_descriptor()
    with Processes(settings.device) as processes:
        with processes.main_first(), input_errors():
            pipe = load_model(settings.model, processes.device)
            if mitigation is not None:
                refuse_undefined_method(mitigation.kept, pipe)

        index = build_index(settings.output / "index", training.name, settings.describer, processes)

        # The runs: what the screen flags, and a sample of the rest, is generated beside what is no copy.
        stages = Stages(settings, training, controls, pipe, processes)
        screened = stages.screen()
        others = stages.generate_controls(screened.kinds)
        runs = [stages.generate(screened.kinds), *stages.mitigate(screened.flagged)]
        if not processes.is_main:
            return None

    # Which images are copies, and what follows from it.
    how = CopySettings(fdr=settings.fdr, by_prompt=True)
    shown = pictures_of_controls(settings, controls)
    judged = [evaluate_copies([run], [others], descriptor, how, training.name, control_records=shown) for run in runs]
    verdict = judge(training, screened, *judged)
    first = verdict_section(verdict, training, runs[0], stored_masks(runs[0]), not_tested(settings, controls))
    copies = [
        section_of_copies(found, [run], [others], descriptor, training.records)
        for found, run in zip(judged, runs, strict=True)
    ]
    screen = decisions_section([screened.run], screened.decisions)
    assert index is not None  # of the main process
    alike = duplicates_section(index, similar_groups(index, settings.duplicates), settings.duplicates)
    write_page(settings, verdict, [first, screen, *copies, alike], [screened.controls, screened.run, others, *runs])
    return verdict


def write_page(settings: AuditSettings, verdict: Verdict, sections: Sequence[Section], runs: Sequence[Run]) -> None:
    """report.html and audit.json."""
    counts = {"training pictures": verdict.num_pictures, "come back": len(verdict.returned)}
    counts |= {"captions": verdict.num_captions, "flagged": verdict.num_flagged}
    numbers = {section.topic: section.results for section in sections}
    write_text(settings.output / REPORT, render_page("Memorization audit", counts, sections, runs))
    write_text(settings.output / RESULTS, json.dumps(plain(numbers | {"fdr": settings.fdr}), indent=1) + "\n")
    print("\n".join(map(str, [verdict.text(), *verdict.warnings, settings.output / REPORT, settings.output / RESULTS])))


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    plt.switch_backend("agg")  # files only, whether there is a display or not
    with exit_on_input_error():
        load_plugins(args.plugin)
        settings = AuditSettings.from_args(args)
        verdict = audit(settings)
    if verdict is not None and settings.fail_above is not None and len(verdict.returned) > settings.fail_above:
        print(f"more than {settings.fail_above} come back", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
