"""Generate with or without mitigation: PE, SS, PR and their combinations, or any of `--list_methods`.

    python inference_mem.py                                     plain generation
    python inference_mem.py --optim_target_loss 1               PE
    python inference_mem.py --l_target_ss 1 --l_target_pr 3 --mag_thres_pr 5        PRSS
    python inference_mem.py --run_version ours_A ...            the same with bright-ending masks
    python inference_mem.py --method sail --strength 4          any method by name
    python inference_mem.py --lora FILE --base_model_id own --contrast 5            extraction by contrast with the base

Rows go to det_outputs/, images to images_data/, both under the run name and the method, so that runs of
one name do not overwrite one another. The same command after an interruption goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from local_sd_pipeline import DenoisingPipeline
from memorization.bundled import GROUND_TRUTH
from memorization.catalogue import mitigation_table
from memorization.errors import exit_on_input_error
from memorization.finished_runs import Run, read_run
from memorization.mitigations.base import MITIGATIONS
from memorization.mitigations.batch import Mitigated
from memorization.mitigations.perturb import AUGMENTATIONS
from memorization.plugins import load_named_plugins
from memorization.runs.arguments import (
    Switch,
    TableAction,
    arguments_of,
    common_parser,
    image_count,
    natural_float,
    natural_int,
    positive_float,
    positive_int,
    word_count,
)
from memorization.runs.mitigation import COLUMNS, MitigationOutput, PromptGroups
from memorization.runs.mitigation_settings import MitigationSettings
from memorization.runs.session import Session, open_session
from memorization.runs.workers import Processes
from memorization.similarity.measure import add_evaluator_options


def make_parser() -> argparse.ArgumentParser:
    """The command line, with what is common to both scripts."""
    parser = common_parser(__doc__, dataset=GROUND_TRUTH)
    parser.add_argument("--num_images_per_prompt", type=image_count, default=1)
    add = parser.add_argument_group("mitigation").add_argument
    add(
        "--run_version",
        default="baseline",
        choices=("baseline", "ours_A"),
        help="ours_A: magnitudes are weighted by the bright-ending mask",
    )
    add("--method", metavar="NAME", help=f"mitigation by name, instead of the flags below: {', '.join(MITIGATIONS)}")
    add(
        "--strength",
        type=natural_float,
        help="knob of --method, by default as released; 0 is off",
    )
    add("--list_methods", action=TableAction, table=mitigation_table, help="print what --method takes, and end")
    add(
        "--prompt_embeds",
        type=Path,
        help="embeddings by prompt index instead of the prompts', by search_embeddings.py",
    )
    add("--ordinary", metavar="DATASET", help="captions that methods compare with; by default the bundled ones")
    add("--attn_scores", type=Path, help="masks for ours_A; by default attn_data/mit_attn_scores.npz")
    add(
        "--base_model_id",
        help="model before tuning, for --contrast: as --model_id, or `own` for it without what is added",
    )
    add(
        "--contrast",
        type=positive_float,
        metavar="SCALE",
        help="an attack, no mitigation: guide away from --base_model_id; released are 3 of a fine-tune, 5 of a LoRA",
    )
    add("--optim_target_steps", type=natural_int, default=0, help="step that is measured; must be 0")
    add(
        "--optim_target_loss",
        type=positive_float,
        help="PE, and methods that optimise the noise: down to this magnitude",
    )
    add("--optim_lr", type=positive_float, default=0.05, help="learning rate of PE")
    add("--optim_iters", type=positive_int, default=10, help="iterations of PE, at most")
    add("--l_target_ss", type=positive_float, help="SS: search for a prompt at or below this")
    add("--l_target_pr", type=positive_float, help="PR: re-anchor above this magnitude")
    add("--mag_thres_pr", type=positive_float, help="PR: magnitude of full re-anchoring")
    add("--pr_mask", action=Switch, default=False, help="PR only where the mask is bright (ours)")
    add("--prompt_aug_style", choices=tuple(AUGMENTATIONS), help="perturb the prompt at random")
    add("--repeat_num", type=word_count, default=1, help="words that --prompt_aug_style adds")
    add("--rand_noise_lam", type=positive_float, help="GNI: scale of noise on the embedding")
    add_evaluator_options(parser.add_argument_group("evaluation at the end of a run, with --with_tracking"))
    return parser


def mitigate_prompts(settings: MitigationSettings, session: Session) -> None:
    """Generate the prompts that are left, write what came of them, and finish the run."""
    # Whatever can be refused is opened before the work.
    groups = PromptGroups(settings, session)
    output = MitigationOutput(settings, session, groups)

    # Groups of prompts that share UNet calls; writing goes on beside the next one.
    for group in session.groups(settings.label):
        images = groups.batch(group)
        pieces = [groups.generate(batch) for batch in images.chunks(settings.run.batch_size)]
        session.write_beside(output.write_group, group, images.prompts, Mitigated.join(pieces))

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
    settings = MitigationSettings.from_args(arguments_of(make_parser(), options))
    with open_session(settings, COLUMNS, pipe, processes) as session:
        mitigate_prompts(settings, session)
    return read_run(settings.files.rows)


def main(argv: Sequence[str] | None = None, pipe: DenoisingPipeline | None = None) -> None:
    """Run a command line; `pipe` is a loaded pipeline to use instead of loading --model_id."""
    with exit_on_input_error():
        load_named_plugins(argv)
        settings = MitigationSettings.from_args(make_parser().parse_args(argv))
        with open_session(settings, COLUMNS, pipe) as session:
            mitigate_prompts(settings, session)


if __name__ == "__main__":
    main()
