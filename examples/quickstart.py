"""Detect, localise and mitigate memorization in the bundled model, in one process.

    bash examples/quickstart.sh         makes the environment first
    python examples/quickstart.py       in an environment that is there

Pictures and tables go to quickstart_output/. A run that was cut off goes on where it was.
"""

import argparse
import contextlib
import io
from pathlib import Path

import quickstart_pictures as pictures

import detect_mem
import inference_mem
import memorization
from memorization.bundled import GROUND_TRUTH, MODEL, PLANTED
from memorization.errors import exit_on_input_error
from memorization.finished_runs import Run, method_of
from memorization.runs.arguments import HelpFormatter, positive_int

# The thresholds are in units of the bundled model's magnitudes.
PRSS = {"l_target_ss": 1.0, "l_target_pr": 1.0, "mag_thres_pr": 2.0}
MITIGATIONS = (
    {},
    {"prompt_aug_style": "rand_word_add", "repeat_num": 4},
    {"rand_noise_lam": 1.0},
    {"optim_target_loss": 1.0},
    {"optim_target_loss": 1.0, "run_version": "ours_A"},
    PRSS,
    PRSS | {"run_version": "ours_A"},
    PRSS | {"run_version": "ours_A", "pr_mask": True},
)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("quickstart_output"), help="where all of it goes")
    parser.add_argument("--num_inference_steps", type=positive_int, default=25, help="DDIM steps")
    parser.add_argument("--model_id", default=str(MODEL), help="another model of the bundled prompts")
    return parser


def quietly(script, pipe, **options) -> Run:
    """A script as a function, without its table: the quickstart prints its own."""
    with contextlib.redirect_stdout(io.StringIO()):
        return script.run(pipe, **options)


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        print("1. Loading the bundled model, in which 32 captions are memorized.")
        pipe = memorization.load_pipeline(args.model_id)
        common = {
            "run_name": "quickstart",
            "model_id": args.model_id,
            "num_images_per_prompt": 1,
            "num_inference_steps": args.num_inference_steps,
            "output_dir": args.output,
        }

        print("2. Detection: one image for each of those 32 prompts and 48 that it never saw.", flush=True)
        detection = quietly(detect_mem, pipe, dataset=str(PLANTED / "planted_prompts.jsonl"), **common)

        print(f"3. Mitigation: 12 memorized prompts, plainly and under {len(MITIGATIONS) - 1} methods.", flush=True)
        some = {"dataset": str(GROUND_TRUTH), "start": 10, "end": 22}  # six verbatim and six template prompts
        runs = [quietly(inference_mem, pipe, **common, **some, **method) for method in MITIGATIONS]

        print("4. Pictures and tables.", flush=True)
        named = {method_of(run): run for run in runs}
        written = pictures.write_pictures(args.output, detection, named)
        print(f"\n{pictures.mitigation_table(named)}\n\nLook at:")
        print("\n".join(f"  {path}" for path in written))


if __name__ == "__main__":
    main()
