"""Detect memorized prompts: one pass gives D, LD, LD's two controls and the bright-ending masks.

    python detect_mem.py
    python detect_mem.py --dataset prompts.jsonl --model_id CompVis/stable-diffusion-v1-4
    python detect_mem.py --screen --seed_mode shared --num_images_per_prompt 1 --dataset captions.parquet

Rows go to det_outputs/, masks to attn_data/, images to images_data/. The same command after an
interruption goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from local_sd_pipeline import DenoisingPipeline
from memorization.bundled import PLANTED
from memorization.catalogue import detector_table
from memorization.errors import exit_on_input_error, input_errors, warn
from memorization.finished_runs import Run, read_run
from memorization.needs import CROSS_ATTENTION, refuse_undefined
from memorization.observation import Recorded, observe_batches
from memorization.plugins import load_named_plugins
from memorization.runs.arguments import (
    Switch,
    TableAction,
    add_decision_options,
    arguments_of,
    common_parser,
    image_count,
    positive_int,
)
from memorization.runs.chosen_detectors import choose_detectors
from memorization.runs.detection import COLUMNS, DetectionOutput, DetectionSettings
from memorization.runs.first_step import BY_CONSTRUCTION, refuse_blind_exit
from memorization.runs.masks import GivenMasks
from memorization.runs.screening import ScreenSettings, screen_prompts
from memorization.runs.session import Session, open_session
from memorization.runs.shared_noise import SharedNoise
from memorization.runs.workers import Processes

MASK_REMEDY = "give the file that was made with these settings, or none for a single pass"


def make_parser() -> argparse.ArgumentParser:
    """The command line, with what is common to both scripts."""
    parser = common_parser(
        __doc__, PLANTED / "planted_prompts.jsonl", None, "one past the last prompt; 500, or all with --screen"
    )
    parser.add_argument("--num_images_per_prompt", type=image_count, default=4)
    add = parser.add_argument_group("detection").add_argument
    add(
        "--run_version",
        default="ours",
        choices=("baseline", "ours"),
        help="baseline: the global score D; ours: also LD and its two controls",
    )
    add("--attn_scores", type=Path, help="take the masks from this npz: the original's two passes")
    add(
        "--early_exit",
        type=positive_int,
        metavar="T",
        help="stop after T steps: D(T) alone, or with --attn_scores LD(T) too; no images, no masks",
    )
    add("--scores", help="published detectors to measure as well: all, or names with commas")
    add(
        "--base_model_id",
        help="model before tuning, for tuned_minus_base: as --model_id, or `own` for --model_id without what is added",
    )
    add("--list_scores", action=TableAction, table=detector_table, help="print what --scores takes, and end")
    add("--calibration", type=Path, metavar="ROWS", help="run of ordinary prompts that broken_memories compares with")
    add("--store_attn_npz", action=Switch, default=True, help="bright-ending masks as npz")
    add("--store_all_tokens", action=Switch, default=False, help="every token's attention, in the original's layout")
    add(
        "--store_maps",
        action=Switch,
        default=False,
        help="for localisation: noise_diff^2 of every step, end-token and padding attention of every layer",
    )
    add = parser.add_argument_group("screen").add_argument
    add(
        "--screen",
        action=Switch,
        default=False,
        help="D at T = 1 alone, of any number of prompts, to det_outputs/*_screen.parquet; with --seed_mode shared",
    )
    add("--shard_size", type=positive_int, default=1024, help="prompts that are kept, or lost by a kill, together")
    add = parser.add_argument_group("decisions").add_argument
    add("--threshold_file", type=Path, help="say memorized yes or no per prompt, by eval_mem.py detection --calibrate")
    add_decision_options(add)
    return parser


def detect_prompts(settings: DetectionSettings, session: Session) -> None:
    """Generate and observe the prompts that are left, write what came of them, and finish the run."""
    pipe, run = session.pipe, session.settings

    # What is measured, and at which layers.
    if settings.store_all_tokens:
        refuse_undefined("--store_all_tokens", (CROSS_ATTENTION,), pipe)
    refuse_blind_exit(session.is_blind, settings.early_exit)
    abilities, own_settings = settings.abilities(pipe, session.is_blind), session.results.settings
    chosen = choose_detectors(settings.scores, abilities, settings.calibration, own_settings)
    if session.is_blind and session.processes.is_main:
        warn(f"D(1) {BY_CONSTRUCTION}; look at more steps, as T=10")
    given = None if settings.attn_scores is None else GivenMasks(session, settings.attn_scores, MASK_REMEDY)
    recorded = Recorded(
        layers=session.layers if settings.early_exit is None else (),  # what ends early has no last step
        map_layers=pipe.map_layers if settings.store_maps else (),
        all_tokens=settings.store_all_tokens,
    )
    shared = SharedNoise(pipe, run)
    output = DetectionOutput(settings, session, chosen)

    # Groups of prompts that share UNet calls; writing goes on beside the next one.
    for group in session.groups("detect"):
        inputs = session.inputs(group, masks=None if given is None else given.of_group(group))
        if settings.shares_first_step:
            inputs = replace(inputs, first_uncond=shared.first_uncond(len(group)))
        before = pipe.num_unet_evals
        with input_errors():  # masks of another size
            observed = observe_batches(
                pipe,
                inputs,
                run.batch_size,
                recorded,
                detectors=chosen.detectors,
                calibration=chosen.calibration,
                num_inference_steps=run.num_inference_steps,
                guidance_scale=run.guidance_scale,
                stop_after=settings.early_exit,
            )
        evals = (pipe.num_unet_evals - before) // len(inputs.seeds)
        session.write_beside(output.write_group, group, observed, evals)

    # The main process gathers what all of them made.
    if session.finish_rows():
        output.finish()
        session.refuse_faulty()


def run(pipe: DenoisingPipeline | None = None, processes: Processes | None = None, **options: object) -> Run:
    """The script as a function: options by the names of the command line, with its defaults; gives the finished run.

    Args:
        pipe: a loaded pipeline to use instead of loading `model_id`.
        processes: this process's place among several that make one run after the other.

    Raises:
        InputError: where the script would end with a line.
        TypeError: for an option that there is not.
    """
    args = arguments_of(make_parser(), options)
    if args.screen:
        screen = ScreenSettings.from_args(args)
        screen_prompts(screen, pipe)
        return read_run(screen.files.columns)
    settings = DetectionSettings.from_args(args)
    with open_session(settings, COLUMNS, pipe, processes) as session:
        detect_prompts(settings, session)
    return read_run(settings.files.rows)


def main(argv: Sequence[str] | None = None, pipe: DenoisingPipeline | None = None) -> None:
    """Run a command line; `pipe` is a loaded pipeline to use instead of loading --model_id."""
    with exit_on_input_error():
        load_named_plugins(argv)
        args = make_parser().parse_args(argv)
        if args.screen:
            screen_prompts(ScreenSettings.from_args(args), pipe)
            return
        settings = DetectionSettings.from_args(args)
        with open_session(settings, COLUMNS, pipe) as session:
            detect_prompts(settings, session)


if __name__ == "__main__":
    main()
