"""Decision thresholds: calibrated by eval_mem.py on prompts that are not memorized, used by detect_mem.py."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memorization.errors import InputError
from memorization.evaluation.classes import Pair, Row
from memorization.finished_runs import MODEL_SETTINGS, differing_setting
from memorization.identity import pair_text
from memorization.rows import is_number, is_whole, score_names
from memorization.scores import image_scores, label
from memorization.tables import format_table


def calibrate_threshold(scores: npt.ArrayLike, fpr: float) -> float:
    """Smallest threshold that at most a share `fpr` of the given negatives lies strictly above.

    A prompt is called memorized when its score is above it.

    Raises:
        ValueError: if `fpr` is not in [0, 1), or there are no scores.
    """
    if not 0 <= fpr < 1:
        raise ValueError(f"a false positive rate of {fpr} is not in [0, 1)")
    scores = np.sort(np.asarray(scores, float))[::-1]
    if not len(scores):
        raise ValueError("no scores of prompts that are not memorized")
    return float(scores[int(fpr * len(scores) + 1e-9)])


@dataclass(frozen=True)
class Threshold:
    """A calibrated decision: a prompt whose mean score exceeds `threshold` is called memorized.

    Attributes:
        key: row key of the score.
        T: how many first steps are averaged; None for all.
        threshold: of the mean over a prompt's images.
        fpr: share of the negatives that was let lie above it.
        num_negatives: distinct prompts that it was calibrated on.
        num_images: of each of them.
        settings: of the runs, which a run that uses the threshold must share.
    """

    key: str
    T: int | None
    threshold: float
    fpr: float
    num_negatives: int
    num_images: int
    settings: dict[str, Any]

    def save_text(self) -> str:
        """Content of a threshold file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "Threshold":
        """The threshold of a file.

        Raises:
            InputError: if the file is not there or is no threshold file.
        """
        try:
            with open(path, encoding="utf-8") as file:
                loaded = cls(**json.load(file))
            loaded.check()
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist; eval_mem.py detection --calibrate writes such a file") from error
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is not a threshold file of eval_mem.py detection --calibrate") from error
        return loaded

    def check(self) -> None:
        """
        Raises:
            ValueError: if something is not of its type.
        """
        counts = (self.num_negatives, self.num_images, 1 if self.T is None else self.T)
        numbers = is_number(self.threshold) and is_number(self.fpr) and all(is_whole(n) and n for n in counts)
        if not (numbers and isinstance(self.key, str) and isinstance(self.settings, dict)):
            raise ValueError("a value of another type")

    def refuse_other_settings(self, settings: Mapping[str, Any], path: str | Path) -> None:
        """
        Args:
            settings: of the run that is to use the threshold.
            path: of the threshold file, for the message.

        Raises:
            InputError: if the threshold was calibrated on another model or another way of sampling.
        """
        name = differing_setting(self.settings, settings)
        if name is not None:
            theirs_text, ours_text = pair_text(name, self.settings, settings)
            values = f"{name} {theirs_text}, this run's is {ours_text}"
            raise InputError(f"{path} was calibrated with {values}; calibrate again with eval_mem.py detection")
        theirs, ours = self.settings.get("early_exit"), settings.get("early_exit")
        if theirs != ours if self.T is None else self.T > (ours or self.T):
            told = f"T={self.T or 'all'}" + (f" of --early_exit {theirs}" if theirs else "")
            raise InputError(f"{path} is for {told}, which --early_exit {ours} does not give")

    def decide(self, row: Row) -> tuple[float, bool]:
        """(score, whether it is above the threshold) of one row.

        Raises:
            InputError: if the row does not have the score.
        """
        if self.key not in row:
            raise InputError(f"the threshold is for {label(self.key)}, which this run does not give")
        score = float(image_scores(row, self.key, self.T).mean())
        return score, score > self.threshold

    def decisions(self, rows: Iterable[Row]) -> list[dict[str, Any]]:
        """For each row its index, prompt and score, the threshold, and whether it is called memorized."""
        found = []
        for row in rows:
            score, above = self.decide(row)
            head = {"index": row["index"], "prompt": row["prompt"]}
            found.append(head | {"score": score, "threshold": self.threshold, "memorized": above})
        return found


def calibrate(nonmem: Sequence[Pair], key: str, horizon: int | None, fpr: float) -> Threshold:
    """Threshold on prompts' mean scores that a share `fpr` of the given negatives exceeds at most.

    Raises:
        InputError: if the runs do not have the score.
        ValueError: if `fpr` is not in [0, 1).
    """
    run = nonmem[0][0]
    names = score_names(run.rows[0])
    if key not in names:
        raise InputError(f"{run.path} has no score {label(key)}; its scores are {', '.join(names)}")
    scores = [image_scores(row, key, horizon).mean() for _, row in nonmem]
    prompts = {row["prompt"] for _, row in nonmem}  # the same prompt at another seed is no further evidence
    return Threshold(
        key=key,
        T=horizon,
        threshold=calibrate_threshold(scores, fpr),
        fpr=fpr,
        num_negatives=len(prompts),
        num_images=len(run.rows[0]["seeds"]),
        settings={name: run.settings.get(name) for name in (*MODEL_SETTINGS, "early_exit")},
    )


def decision_table(lines: Sequence[Mapping[str, Any]], threshold: Threshold) -> str:
    """Markdown table of all prompts' decisions, the highest score first.

    Args:
        lines: of `Threshold.decisions`.
    """
    rows = [
        [line["index"], "yes" if line["memorized"] else "no", line["score"], line["prompt"][:60]]
        for line in sorted(lines, key=lambda line: -line["score"])
    ]
    flagged = sum(line["memorized"] for line in lines)
    told = f"threshold {threshold.threshold:.3f} on {label(threshold.key)} of T={threshold.T or 'all'}"
    calibrated = f"calibrated for {threshold.fpr:.1%} false positives on {threshold.num_negatives} prompts "
    calibrated += f"of {threshold.num_images} images each"
    table = format_table(["index", "memorized", "score", "prompt"], rows)
    return f"{table}\n{flagged} of {len(lines)} prompts above the {told}, {calibrated}"
