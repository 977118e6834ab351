"""What follows from an audit's runs: which images are copies, the verdict, and the page that says it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from memorization.audit.attacks import Attacked, attack_controls, judge_attack
from memorization.audit.captions import TrainingSet
from memorization.audit.controls import pictures_of_controls, with_pictures
from memorization.audit.pictures import indexed_pictures
from memorization.audit.screening import Screened
from memorization.audit.sections import attacks_section, verdict_section
from memorization.audit.settings import AuditSettings
from memorization.audit.untested import not_tested
from memorization.audit.verdict import Verdict, judge
from memorization.data.prompts import PromptRecord
from memorization.evaluation.copies import Compared, Copies, CopySettings, describe_compared, judge_copies
from memorization.files.whole import write_text
from memorization.finished_runs import Run, stored_masks
from memorization.report.copies_section import section_of_copies
from memorization.report.duplicates_section import duplicates_section
from memorization.report.page import Lead, render_page
from memorization.report.section import Section
from memorization.report.sections import decisions_section
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.index.groups import similar_groups
from memorization.similarity.index.stored import StoredIndex
from memorization.tables import plain

REPORT, RESULTS = "report.html", "audit.json"
TITLE = "Memorization audit"


@dataclass(frozen=True)
class Made:
    """What an audit's stages made.

    Attributes:
        training, controls: what it is of, and what was not trained on, by their numbers.
        index: of the training pictures.
        screened: of every caption.
        others: what is no copy.
        runs: the captions that were generated, and under the mitigation where there is one.
        attacks: by name the same captions under an attack, and its controls.
    """

    training: TrainingSet
    controls: Mapping[int, PromptRecord]
    index: StoredIndex
    screened: Screened
    others: Run
    runs: Sequence[Run]
    attacks: Mapping[str, tuple[Run, Run]]

    @property
    def all_runs(self) -> list[Run]:
        attacks = [run for pair in self.attacks.values() for run in pair]
        return [self.screened.controls, self.screened.run, self.others, *self.runs, *attacks]


@dataclass(frozen=True)
class Outcome:
    """The verdict, and how the images of each of the runs were judged."""

    verdict: Verdict
    judged: Sequence[Copies]


def judge_audit(settings: AuditSettings, made: Made, descriptor: CopyDescriptor) -> Outcome:
    """Judge every image; training pictures by what the index holds of them, what they are compared with once.

    Args:
        descriptor: that the index was made by.
    """
    how, pictures = CopySettings(fdr=settings.fdr, by_prompt=True), indexed_pictures(made.index, made.training)

    def compared_with(run: Run, shown: Mapping[int, PromptRecord]) -> Compared:
        return describe_compared(made.training.records, pictures, [run], shown, descriptor)

    plainly = compared_with(made.others, pictures_of_controls(settings, made.controls))
    judged = [judge_copies([run], plainly, how) for run in made.runs]
    verdict = judge(made.training, made.screened, *judged)
    attacked: list[Attacked] = []
    for name, (run, controls) in made.attacks.items():
        shown = with_pictures(attack_controls(name, made.controls, settings.num_copy_controls))
        found, places = (
            judge_copies([run], compared_with(controls, shown), how),
            [one.place for one in verdict.returned],
        )
        attacked.append(judge_attack(name, made.training, made.screened.kinds, judged[0], found, places))
    warnings = [*verdict.warnings, *(warning for one in attacked for warning in one.warnings)]
    return Outcome(replace(verdict, attacks=attacked, warnings=warnings), judged)


def make_sections(settings: AuditSettings, made: Made, outcome: Outcome, descriptor: CopyDescriptor) -> list[Section]:
    """The sections of the page, the verdict's first."""
    training, verdict, masks = made.training, outcome.verdict, stored_masks(made.runs[0])
    left_out = made.screened.num_unflagged - len(made.screened.sampled)
    untested = not_tested(settings, made.controls, left_out)
    sections = [verdict_section(verdict, training, made.runs[0], masks, untested)]
    if made.attacks:
        runs = {name: run for name, (run, _) in made.attacks.items()}
        sections.append(attacks_section(verdict.attacks, training, runs, settings.attack_settings))
    sections.append(decisions_section([made.screened.run], made.screened.decisions))
    for found, run in zip(outcome.judged, made.runs, strict=True):
        sections.append(section_of_copies(found, [run], [made.others], descriptor, training.records))
    groups = similar_groups(made.index, settings.duplicates)
    return [*sections, duplicates_section(made.index, groups, settings.duplicates)]


def write_outcome(settings: AuditSettings, made: Made, outcome: Outcome, descriptor: CopyDescriptor) -> None:
    """report.html and audit.json."""
    verdict, sections = outcome.verdict, make_sections(settings, made, outcome, descriptor)
    counts = {"training pictures": verdict.num_pictures, "come back": verdict.num_back}
    counts |= {"captions": verdict.num_captions, "flagged": verdict.num_flagged}
    numbers = {section.topic: section.results for section in sections}
    lead = Lead(verdict.headline(), verdict.details(), verdict.warnings)
    write_text(settings.output / REPORT, render_page(TITLE, counts, sections, made.all_runs, lead))
    write_text(settings.output / RESULTS, json.dumps(plain(numbers | {"fdr": settings.fdr}), indent=1) + "\n")
