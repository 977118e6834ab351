"""The signals that `--scores` asks for, measured beside a detection run: what each costs, and what goes into rows."""

import torch

from attn_utils import TokenShares, cross_attention_layers
from memorization.detectors.images import tiled_distance
from memorization.detectors.motion import motion_zscores
from memorization.detectors.registry import MOTION, SIGNALS, TILED
from memorization.errors import InputError
from memorization.finished_runs import read_run
from memorization.observation import Trace, late_steps
from memorization.rows import MOTION_NORMS

# Given by every run (the last four by --run_version ours), so that asking for them changes nothing.
ALWAYS = ("noise_diff_norm", "be_mean", "be_masked", "be_shuffled", "be_rms")


NAMES = (*ALWAYS, *SIGNALS, TILED, MOTION)


def parse_names(text):
    """Names out of `all` or a list with commas.

    Raises:
        InputError: if one is none of `NAMES`.
    """
    names = NAMES if text == "all" else tuple(dict.fromkeys(text.split(",")))
    unknown = next((n for n in names if n not in NAMES), None)
    if unknown is not None:
        raise InputError(f"--scores has no {unknown!r}; give all, or some of {', '.join(NAMES)} with commas")
    return names


class Signals:
    """Measures the signals of a run.

    Attributes:
        names: those that are measured; of `all`, those that this run can give.
    """

    def __init__(self, args, pipe):
        """
        Args:
            args: parsed arguments of detect_mem.py.

        Raises:
            InputError: if a name is unknown, or asks for what this run does not have.
        """
        self.pipe, self.steps = pipe, args.num_inference_steps
        self.names = parse_names(args.scores) if args.scores else ()
        lacking = {n: why for n in self.names if (why := self.what_lacks(n, args)) is not None}
        if lacking and args.scores != "all":
            name, why = next(iter(lacking.items()))
            raise InputError(f"--scores {name} {why}")
        self.names = tuple(n for n in self.names if n not in lacking)
        self.measured = [n for n in self.names if n in SIGNALS]
        self.layers = cross_attention_layers(pipe.unet)
        self.calibration = read_calibration(args.calibration) if args.calibration else None

    @staticmethod
    def what_lacks(name, args):
        """Why a run with these arguments cannot give a score; None where it can."""
        last, signal = args.early_exit, SIGNALS.get(name)
        if signal is not None and last is not None and (signal.steps is None or signal.steps > last):
            return (
                f"needs {'the last step' if signal.steps is None else f'{signal.steps} steps'}: no --early_exit {last}"
            )
        if name == "score_change" and args.num_inference_steps < signal.steps:
            return f"needs {signal.steps} steps"
        if name == TILED and (args.num_images_per_prompt < 2 or last is not None):
            return "compares finished images of a prompt: use --num_images_per_prompt 2 or more and no --early_exit"
        if name in ALWAYS[2:] and args.run_version == "baseline":
            return "needs --run_version ours"
        return None

    @property
    def compares_images(self):
        return TILED in self.names

    def trace(self, embeds, tokens, seeds):
        """A `Trace` for one batch; None when nothing is asked for."""
        if not self.measured and MOTION not in self.names:
            return None
        wanted = any(SIGNALS[n].attention for n in self.measured)
        stores = {k: TokenShares(self.layers) for k in (0, *late_steps(self.steps))} if wanted else {}
        norms = [] if MOTION in self.names else None
        return Trace(self.pipe, embeds, tokens, seeds, self.steps, stores=stores, norms=norms)

    def measure(self, trace):
        """Scores, norms and maps of one batch: dict from row key to a tensor with a row an image."""
        found = {}
        with torch.compiler.set_stance("force_eager"):  # a compiled UNet has no forward derivative
            for name in self.measured:
                found |= {f"score.{key}": value for key, value in SIGNALS[name].function(trace).items()}
        if MOTION in self.names:
            norms = {n: torch.stack([step[n] for step in trace.norms], 1) for n in MOTION_NORMS}
            found |= {f"score.{name}": value for name, value in norms.items()}
            if self.calibration is not None:
                calibration = {n: tuple(c.to(norms[n]) for c in pair) for n, pair in self.calibration.items()}
                found["score.broken_memories"] = motion_zscores(norms, calibration)
        return found | {f"map.{name}": value for name, value in trace.found_maps.items()}

    def of_images(self, images):
        """Scores that compare the finished images of one prompt, uint8 (images, height, width, 3)."""
        return {"tiled_l2": tiled_distance(torch.from_numpy(images))} if self.compares_images else {}

    def costs(self):
        """Evaluations and gradients an image of each signal beyond the generation."""
        return {name: list(SIGNALS[name].cost) for name in self.measured}


def read_calibration(path):
    """Mean and standard deviation by step over all images of an ordinary run, by name of norm.

    Raises:
        InputError: if the run was made without --scores broken_memories, or is of one image.
    """
    run = read_run(path)
    if any(name not in row for row in run.rows for name in MOTION_NORMS):
        raise InputError(f"{path} has no norms to calibrate with; make it with --scores broken_memories")
    stacked = {n: torch.tensor([image for row in run.rows for image in row[n]]) for n in MOTION_NORMS}
    if len(next(iter(stacked.values()))) < 2:
        raise InputError(f"{path} holds one image; calibrate with more")
    return {n: (values.mean(0), values.std(0)) for n, values in stacked.items()}
