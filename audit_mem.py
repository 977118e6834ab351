"""Audit a model against the pictures it was trained on: which of them come back, in one command.

    python audit_mem.py
    python audit_mem.py MODEL --training_data PICTURES --sscd sscd_disc_large.torchscript.pt
    python audit_mem.py MODEL --lora mine.safetensors --base_model_id own --training_data PICTURES --sscd FILE

Pictures are indexed, and near-duplicates among them listed. Every caption is screened at the first step, against
captions that were not trained on; what is flagged, and a random sample of what is not, is generated and compared with
all training pictures, against generations that are no copies; --attacks tries to extract them besides. The page
report.html has the verdict first; audit.json has it for programs. The same command after an interruption goes on where
it stopped.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import matplotlib.pyplot as plt

import detect_mem
import inference_mem
from local_sd_pipeline import DenoisingPipeline
from memorization.audit.arguments import audit_parser
from memorization.audit.attacks import CONTRAST, attack_controls, refuse_undefined_attacks
from memorization.audit.captions import TrainingSet, read_training_set, write_prompts
from memorization.audit.controls import chosen_controls
from memorization.audit.outcome import REPORT, RESULTS, Made, judge_audit, write_outcome
from memorization.audit.screening import Screened, decide_captions
from memorization.audit.settings import AuditSettings
from memorization.audit.verdict import Verdict
from memorization.data.contents import dataset_content
from memorization.data.prompts import PromptRecord
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.files.whole import WAY_OUT, made_folder
from memorization.finished_runs import Run
from memorization.identity import names_of
from memorization.mitigations.options import refuse_undefined_method
from memorization.models.contents import pipeline_contents
from memorization.plugins import load_plugins
from memorization.runs.arguments import arguments_of
from memorization.runs.embedding_search import SearchSettings, search_records
from memorization.runs.indexing import build_index
from memorization.runs.mitigation_settings import MitigationSettings
from memorization.runs.models import load_model
from memorization.runs.settings import OWN_BASE
from memorization.runs.workers import Processes

LOG = "runs.log"


def make_parser() -> argparse.ArgumentParser:
    return audit_parser(__doc__)


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

    def attack(self, name: str, kinds: Mapping[int, str]) -> tuple[Run, Run]:
        """The captions of some indices, and controls, under an extraction attack."""
        records = {index: self.training.records[index] for index in sorted(kinds)}
        runs = []
        for part, some in ((name, records), (f"{name}_controls", self.attacked_controls(name))):
            options = self.options(part, {k: r.prompt for k, r in some.items()}, kinds if some is records else None)
            how = self.contrast() if name == CONTRAST else self.searched(part, some, some is records)
            with self.as_part():
                runs.append(inference_mem.run(self.pipe, self.processes, **how, **options))
        return runs[0], runs[1]

    def attacked_controls(self, name: str) -> dict[int, PromptRecord]:
        return attack_controls(name, self.controls, self.settings.num_copy_controls)

    def contrast(self) -> dict[str, object]:
        return {"contrast": self.settings.scale, "base_model_id": self.settings.base_model_id}

    def searched(self, part: str, records: Mapping[int, PromptRecord], are_trained: bool) -> dict[str, object]:
        """Embeddings that bring the pictures of some records back."""
        s, path = self.settings, self.settings.output / "embeddings" / f"{part}.safetensors"
        dataset = self.training.name if are_trained else str(s.controls)
        contents = pipeline_contents(self.pipe, from_memory=True) | names_of({"dataset": dataset_content(dataset)})
        how = SearchSettings(str(s.run_options["model_id"]), dataset, s.seed, s.search_steps, dtype=self.dtype)
        numbered = [replace(record, index=k) for k, record in records.items()]
        search_records(self.pipe, numbered, how, contents, path, self.processes)
        return {"prompt_embeds": path}

    @property
    def dtype(self) -> str:
        return str(self.pipe.denoiser.dtype).removeprefix("torch.")

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


def chosen_mitigation(settings: AuditSettings) -> MitigationSettings | None:
    """The mitigation as inference_mem.py has it; None without one.

    Raises:
        InputError: if inference_mem.py would refuse it.
    """
    if settings.method is None:
        return None
    chosen = {"method": settings.method, "strength": settings.strength}
    return MitigationSettings.from_args(arguments_of(inference_mem.make_parser(), chosen))


def audit(settings: AuditSettings) -> Verdict | None:
    """Screen, generate, compare and write the page; None in a process that is not the main one.

    Raises:
        InputError: one line, before the work where it can be known then.
    """
    with made_folder(settings.output, "--output"):
        # Whatever can be refused is opened before the work.
        training = read_training_set(settings.training_data)
        controls = chosen_controls(training, settings)
        mitigation = chosen_mitigation(settings)
        descriptor = settings.evaluators.open_descriptor()
        assert descriptor is not None  # there always is one
        with Processes(settings.device) as processes:
            with processes.main_first(), input_errors():
                pipe = load_model(settings.model, processes.device)
                if mitigation is not None:
                    refuse_undefined_method(mitigation.kept, pipe)
                refuse_undefined_attacks(settings.attacks, pipe)

            index = build_index(settings.output / "index", training.name, settings.describer, processes)

            # The runs: what the screen flags, and a sample of the rest, is generated beside what is no copy.
            stages = Stages(settings, training, controls, pipe, processes)
            screened = stages.screen()
            others = stages.generate_controls(screened.kinds)
            runs = [stages.generate(screened.kinds), *stages.mitigate(screened.flagged)]
            attacks = {name: stages.attack(name, screened.kinds) for name in settings.attacks}
            if index is None:  # not the main process
                return None

    # Which images are copies, and what follows from it.
    made = Made(training, controls, index, screened, others, runs, attacks)
    outcome = judge_audit(settings, made, descriptor)
    write_outcome(settings, made, outcome, descriptor)
    verdict, files = outcome.verdict, [settings.output / REPORT, settings.output / RESULTS]
    print("\n".join(map(str, [verdict.text(), *verdict.warnings, *files])))
    return verdict


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    plt.switch_backend("agg")  # files only, whether there is a display or not
    with exit_on_input_error():
        load_plugins(args.plugin)
        settings = AuditSettings.from_args(args)
        verdict = audit(settings)
    if verdict is not None and settings.fail_above is not None and verdict.num_back > settings.fail_above:
        print(f"more than {settings.fail_above} come back", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
