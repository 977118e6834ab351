"""What a detector is: a record that says what it computes, what that costs and where it was published.

A detector is one function under `@detector` in a file of this folder, which is found by itself. Everything else follows
from its record: the choices and refusals of `--scores`, columns and labels of tables, cost alone, figures and docs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from memorization.errors import InputError
from memorization.registry import Registry, first_sentence
from memorization.released import Released

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, DenoisingPipeline

Scores = dict[str, torch.Tensor]
COST_OF_GRADIENT = 2  # in evaluations, as the backward pass of a network costs twice its forward pass


@dataclass(frozen=True)
class Detector:
    """A detector that `--scores` can ask for; its scores are higher for memorized images.

    Attributes:
        name: what `--scores` calls it.
        function: from a `Trace` to a dict of tensors (images,) or (images, steps) by row key; with `of_images` from the
            finished images of one prompt, uint8 tensor (images, height, width, 3).
        keys: its scores, row key to label in tables and figures.
        what: one line on what it computes.
        source: where it was published; "ours" if nowhere.
        steps: how many of the first steps it needs; None needs the last.
        cost: (evaluations, gradients or tangents) of single samples per image, beyond the generation.
        always: given by every run, so that asking for it changes nothing.
        stepped: one score per step, (images, steps), which T averages.
        needs_mask: weighs with the bright-ending mask, which `--run_version baseline` leaves out.
        needs_base: compares with the model before it was tuned, `trace.pipe.base`.
        of_images: compares the finished images of a prompt; needs two of them.
        key_steps: first steps that a key needs where those are fewer than the record's.
        least_steps: shortest generation that it makes sense for; `steps` by default.
        attention_steps: from the number of steps to the indices of those whose token shares it reads.
        watch: from (pipe, step) to a dict of tensors (images,), which the trace keeps of every step.
        kept: row keys of numbers that it leaves in the row and that are no scores.
        released: hyper-parameters that it was released with, by family of models.
        needs: what it is defined by, out of memorization/needs.py; refused for families of models that lack it.
        revision: goes up when the numbers under its name change, so that a run of before is not gone on with.
    """

    name: str
    function: Callable[..., Scores]
    keys: Mapping[str, str]
    what: str
    source: str
    steps: int | None
    cost: tuple[int, int] = (0, 0)
    always: bool = False
    stepped: bool = False
    needs_mask: bool = False
    needs_base: bool = False
    of_images: bool = False
    key_steps: Mapping[str, int] = field(default_factory=dict)
    least_steps: int | None = None
    attention_steps: Callable[[int], Sequence[int]] | None = None
    watch: "Callable[[DenoisingPipeline, DenoiseStep], Scores] | None" = None
    kept: tuple[str, ...] = ()
    released: Released = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    revision: int = 1

    def evaluations(self, key: str, horizon: int | None, num_steps: int) -> int:
        """Evaluations per image that one of its scores takes alone, a gradient or tangent counted as two.

        Args:
            key: one of `keys`.
            horizon: first steps that are averaged; None for all.
            num_steps: of a whole generation.
        """
        steps = self.key_steps.get(key) or self.steps
        if self.stepped and not self.needs_mask:
            steps = horizon
        extra = 0 if key in self.key_steps else self.cost[0] + COST_OF_GRADIENT * self.cost[1]
        return 2 * (steps or num_steps) + extra


DETECTORS: "Registry[Detector]" = Registry("memorization.detectors", "detector")


def detector(
    name: str, *, keys: Mapping[str, str], source: str, steps: int | None = None, **rest
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Register the decorated function as a detector; the first line of its docstring says what it is.

    Args:
        name, keys, source, steps: of the record, as is whatever else is given; see `Detector`.

    Raises:
        InputError: if the name or a key is taken, or the function says nothing about itself.
    """

    def register(function: Callable[..., Scores]) -> Callable[..., Scores]:
        what = rest.pop("what", None) or first_sentence(function)
        record = Detector(name, function, dict(keys), what, source, steps, **rest)
        taken = next((k for k in record.keys for other in DETECTORS.found() if k in other.keys), None)
        if taken is not None:
            raise InputError(f"detector {name!r} gives the score {taken!r}, which another detector gives already")
        DETECTORS.add(name, record)
        return function

    return register


def in_order_of_cost() -> Iterator[Detector]:
    """All detectors, the cheapest first: those of every run, then by the steps and the evaluations that they need."""
    whole = 10**6
    yield from sorted(
        DETECTORS.values(), key=lambda d: (not d.always, d.steps or whole, d.cost[0] + COST_OF_GRADIENT * d.cost[1])
    )
