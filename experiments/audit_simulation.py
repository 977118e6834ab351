"""An audit's decisions on made-up scores whose truth is known, by the functions that an audit takes.

Captions copy or do not; of those that do the screen sees some and some are hidden from it. What is counted: false ones
among flagged captions, among captions and pictures that are said to come back, and how often the bound of what the
screen misses holds. The scores are exchangeable with their controls where nothing is memorized, so that whatever is
beyond the nominal rates is the fault of the decisions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.means import mean_and_error, mean_text
from memorization.audit.captions import TrainingSet
from memorization.audit.screening import Screened, decide_captions
from memorization.audit.verdict import Verdict, judge
from memorization.data.prompts import PromptRecord
from memorization.evaluation.copies import Copies, CopySettings
from memorization.evaluation.judged_images import Line, decide_prompts
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import interval_text
from memorization.finished_runs import Run
from memorization.tables import format_table

SCORE = "text_noise_norm"
IMAGES, SCREEN_CONTROLS, COPY_CONTROLS, UNFLAGGED, FDR = 4, 1000, 100, 100, 0.05  # an audit's defaults
COPY_SHARE = 0.75  # of the images of a caption that copies
FAR = 6.0  # of copies' similarity from that of other images, and of a score that the screen sees, in deviations
ALIKE = 0.6  # what the images of a caption have in common, in deviations


@dataclass(frozen=True)
class Case:
    """How many captions there are, how many copy, and how many of these the screen does not see."""

    captions: int
    copying: int
    hidden: int = 0


CASES = [Case(1000, 0), Case(1000, 10), Case(1000, 50), Case(1000, 50, 40), Case(1000, 200, 100), Case(100, 20)]


def similarities(count: int, rng: np.random.Generator) -> np.ndarray:
    """Of images that are no copies to the nearest picture, (captions, images)."""
    own = rng.normal(size=(count, IMAGES)) * np.sqrt(1 - ALIKE**2)
    return own + ALIKE * rng.normal(size=(count, 1))


def made_up_run(name: str, scores: np.ndarray) -> Run:
    """A finished screen with these scores, (captions,)."""
    rows = [
        {"index": k, "prompt": f"{name} {k}", "seeds": list(range(IMAGES)), SCORE: [[float(score)]] * IMAGES}
        for k, score in enumerate(scores)
    ]
    return Run(Path(f"{name}.jsonl"), rows, {}, {})


def lines_of(name: str, values: Mapping[int, np.ndarray], nearest: Mapping[int, np.ndarray], kinds: Mapping[int, str]):
    """A line per image: its similarity (images,) and nearest picture (images,) by caption."""
    return [
        {"index": k, "prompt": f"{name} {k}", "kind": kinds.get(k, "all"), "seed": j, "first": j == 0}
        | {"nearest": float(values[k][j]), "nearest_picture": int(nearest[k][j])}
        for k in values
        for j in range(IMAGES)
    ]


@dataclass(frozen=True)
class World:
    """One made-up training set: a caption for every picture, those that copy first.

    Attributes:
        is_copy: of every image that a caption would give, (captions, images).
        similarity: to the nearest picture, higher = copy, (captions, images).
        nearest: which picture that is, (captions, images).
        scores: of the screen, (captions,).
    """

    is_copy: np.ndarray
    similarity: np.ndarray
    nearest: np.ndarray
    scores: np.ndarray

    @classmethod
    def draw(cls, case: Case, rng: np.random.Generator) -> "World":
        order = np.arange(case.captions)
        is_copy = (order < case.copying)[:, None] & (rng.random((case.captions, IMAGES)) < COPY_SHARE)
        nearest = np.where(is_copy, order[:, None], rng.integers(case.captions, size=is_copy.shape))
        is_seen = (order >= case.hidden) & (order < case.copying)
        similarity = similarities(case.captions, rng) + FAR * is_copy
        return cls(is_copy, similarity, nearest, rng.normal(size=case.captions) + FAR * is_seen)

    def audit(self, rng: np.random.Generator, seed: int) -> tuple[Screened, list[Line], Verdict]:
        """What an audit finds: the screen, the images that are judged, and the verdict."""
        controls = made_up_run("control", rng.normal(size=SCREEN_CONTROLS))
        screened = decide_captions(made_up_run("caption", self.scores), controls, SCORE, FDR, UNFLAGGED, seed)
        kinds = screened.kinds
        lines = lines_of("caption", *({k: of[k] for k in kinds} for of in (self.similarity, self.nearest)), kinds)
        others = dict(enumerate(similarities(COPY_CONTROLS, rng)))
        decide_prompts(lines, lines_of("control", others, others, {}), FDR)
        how = CopySettings(fdr=FDR, by_prompt=True)
        found = Copies([], [], lines, len(self.scores), COPY_CONTROLS, how)
        return screened, lines, judge(self.training(), screened, found)

    def training(self) -> TrainingSet:
        records = [
            PromptRecord(k, f"caption {k}", f"caption {k}", reference_images=(Path(f"{k}.png"),))
            for k in range(len(self.scores))
        ]
        return TrainingSet("made up", {record.index: record for record in records})


def repetition(case: Case, seed: int) -> dict[str, float]:
    """What one audit says, beside the truth; NaN of what is not there."""
    rng = np.random.default_rng([seed, case.captions, case.copying, case.hidden])
    world = World.draw(case, rng)
    screened, lines, verdict = world.audit(rng, seed)
    copying = set(np.flatnonzero(world.is_copy.any(1)).tolist())
    flagged, back = set(screened.flagged), {one.place for one in verdict.returned}
    decided = set(screened.decided.indices(screened.decided.memorized))
    said = {line["index"] for line in lines if line["is_copy"]}
    missed = len(copying - flagged) / case.captions
    return {
        "false_decided": false_share(decided, set(range(case.hidden, case.copying))),
        "false_captions": false_share(said, copying),
        "false_pictures": false_share(back, copying),
        "found": len(back & copying) / len(copying) if copying else float("nan"),
        "missed": missed,
        "bound": verdict.missed_at_most,
        "holds": float(verdict.missed_at_most >= missed),
    }


def false_share(found: set[int], true: set[int]) -> float:
    """Share of what is found that is not true; 0 of nothing, as false discovery rates count."""
    return len(found - true) / max(len(found), 1)


def simulate(cases: Sequence[Case], repetitions: int) -> list[dict[str, Any]]:
    """Means over repetitions with their standard errors, and how often the bound holds, case by case."""
    return list(simulated(cases, repetitions))


def simulated(cases: Sequence[Case], repetitions: int) -> Iterator[dict[str, Any]]:
    for case in tqdm(cases, desc="simulation", unit="case"):
        found = [repetition(case, seed) for seed in range(repetitions)]
        values = {name: np.array([f[name] for f in found]) for name in found[0]}
        holds = share_measure(values.pop("holds"), range(repetitions))
        means = {name: mean_and_error(v) for name, v in values.items()}
        yield {**vars(case), "repetitions": repetitions, **means, "holds": holds}


def simulation_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Realised rates against nominal ones, a row for each case."""
    names = {"false_decided": "false among decided by the screen", "false_captions": "false among captions that copy"}
    names |= {"false_pictures": "false among pictures that come back", "found": "pictures found"}
    names |= {"missed": "missed by the screen", "bound": "said to be at most"}
    rows = [
        [r["captions"], r["copying"], r["hidden"], *(mean_text(r[n]) for n in names), interval_text(r["holds"])]
        for r in results
    ]
    table = format_table(["captions", "that copy", "of them hidden", *names.values(), "bound holds"], rows)
    told = (
        f"{results[0]['repetitions']} repetitions, {IMAGES} images a caption, {SCREEN_CONTROLS} controls of the screen "
    )
    told += f"and {COPY_CONTROLS} of copies, {UNFLAGGED} captions drawn among the others. Nominal: at most {FDR:g} of "
    return f"{table}\n\n{told}each false, and the bound holds in 0.95 or more."
