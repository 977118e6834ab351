"""What a mitigation is: a record with one knob.

A mitigation is one function under `@mitigation` in a file of this folder, which is found by itself. Everything else
follows from its record: the choices and refusals of `--method`, what is stronger, sweeps, cost, tables and docs. At
strength 0 each is plain generation, bit for bit. They act on every image, memorized or not: what that does to ordinary
prompts is a matter of measurement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, plain_generation
from memorization.registry import Registry, first_sentence
from memorization.released import Released

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

Flags = dict[str, Any]  # of the command line, by name

PLAIN = "none"  # what generation without a mitigation is called

MitigationFunction = Callable[["DenoisingPipeline", MitigationOptions, ImageBatch, float], Mitigated]


@dataclass(frozen=True)
class Mitigation:
    """A mitigation that `--method` chooses by name, with one knob, `--strength`.

    Attributes:
        name: what `--method` calls it.
        function: from (pipe, options, images, strength) to `Mitigated`.
        what: one line on what it does.
        knob: what the strength is.
        source: where it was published; "ours" if nowhere.
        stronger: "more" where a larger strength hides more, "less" where a smaller one does.
        largest: of the strengths that mean something; None without a bound.
        sweep: strengths from weak to strong on Stable Diffusion 1.
        bundled_sweep: the same on the bundled model, whose magnitudes are smaller; `sweep` where they do not matter.
        cost: from (strength, number of steps) to the evaluations per image beyond a plain generation, at most; where
            paraphrases are searched, those of a prompt that has none.
        stops: whether an image is done at or below `--optim_target_loss`, where that is given.
        reads: what it works on: "embedding", "words", "latents", "guidance", "attention" or "weights".
        variants: "be" where magnitudes can be weighed with the bright-ending mask (`--run_version ours_A`), "prmask"
            where it can be restricted to the mask (`--pr_mask`).
        whole: whether the strength is a whole number.
        flags: from the strength to the flags of the command line that mean the same, for methods that have them.
        rewrite: from (prompt, strength, seed, vocabulary) to the prompt to generate with, for methods that change
            words.
        compares: whether it needs `MitigationOptions.ordinary_text`.
        released: hyper-parameters that it was released with, by family of models; `strength` among them is the knob's
            preset.
        needs: what it is defined by, out of memorization/needs.py; refused for families of models that lack it.
        revision: goes up when the numbers under its name change, so that a run of before is not gone on with.
    """

    name: str
    function: MitigationFunction
    what: str
    knob: str
    source: str
    stronger: str = "more"
    largest: float | None = None
    sweep: tuple[float, ...] = ()
    bundled_sweep: tuple[float, ...] = ()
    cost: Callable[[float, int], int] = lambda strength, steps: 0
    stops: bool = False
    reads: str = "embedding"
    variants: tuple[str, ...] = ()
    whole: bool = False
    flags: Callable[[float], Flags] | None = None
    rewrite: Callable[[str, int, int, Sequence[str]], str] | None = None
    compares: bool = False
    released: Released = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    revision: int = 1


MITIGATIONS: Registry[Mitigation] = Registry("memorization.mitigations", "mitigation")


def mitigation(name: str, *, knob: str, source: str, **rest) -> Callable[[MitigationFunction], MitigationFunction]:
    """Register the decorated function as a mitigation; the first line of its docstring says what it does.

    Args:
        name, knob, source: of the record, as is whatever else is given; see `Mitigation`.

    Raises:
        InputError: if the name is taken, or the function says nothing about itself.
    """

    def register(function: MitigationFunction) -> MitigationFunction:
        what = rest.pop("what", None) or first_sentence(function)
        MITIGATIONS.add(name, Mitigation(name, function, what, knob, source, **rest))
        return function

    return register


def run_mitigation(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, name: str, strength: float
) -> Mitigated:
    """Generate a batch with a method out of `MITIGATIONS`; strength 0 is plain generation."""
    if strength == 0:
        return plain_generation(pipe, options, images)
    return MITIGATIONS[name].function(pipe, options, images, strength)
