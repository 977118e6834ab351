"""Command line of audit_mem.py."""

import argparse
from pathlib import Path

from memorization.audit.attacks import ATTACKS
from memorization.bundled import DOSES_GROUND_TRUTH
from memorization.embedding_search import STEPS
from memorization.plugins import add_plugin_option
from memorization.runs.arguments import (
    HelpFormatter,
    add_model_options,
    add_sampling_options,
    image_count,
    natural_float,
    natural_int,
    positive_float,
    positive_int,
    rate,
)
from memorization.similarity.measure import add_descriptor_options


def audit_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("model_id", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help="as --model_id")
    add_audit_options(parser)
    add_attack_options(parser)
    add_descriptor_options(parser.add_argument_group("copies"))
    add_plugin_option(parser)
    add_model_options(parser.add_argument_group("model").add_argument)
    add_sampling_options(parser.add_argument_group("sampling").add_argument)
    return parser


def add_audit_options(parser: argparse.ArgumentParser) -> None:
    """What the model was trained on, what it is compared with, and where it all goes."""
    add = parser.add_argument_group("audit").add_argument
    text = "what the model was trained on: pictures with their captions, in any form that --dataset takes"
    add("--training_data", default=str(DOSES_GROUND_TRUTH), help=text)
    text = "model before tuning, for what the tuning added: as --model_id, or `own` for it without what is added to it"
    add("--base_model_id", help=text)
    text = "captions that were not trained on, of the same kind, best with their pictures; by default made of the "
    text += "captions' words"
    add("--controls", metavar="DATASET", help=text)
    add("--num_controls", type=positive_int, default=1000, help="of them, at most")
    text = "of them, generated as what is no copy; with a base, its images of the captions are"
    add("--num_copy_controls", type=positive_int, default=100, help=text)
    text = "captions that are generated although they are not flagged, to bound what the screen misses"
    add("--num_unflagged", type=positive_int, default=100, help=text)
    text = "of every caption and control, screened and generated"
    add("--num_images_per_prompt", type=image_count, default=4, help=text)
    add("--duplicates", type=rate, default=0.9, help="cosine from which two training pictures are near-duplicates")
    text = "share of false ones among captions that give a copy, and among those that the screen decides"
    add("--fdr", type=rate, default=0.05, help=text)
    text = "a mitigation of inference_mem.py: flagged captions are generated under it and judged again"
    add("--method", help=text)
    add("--strength", type=natural_float, help="of it, by default as released")
    add("--fail_above", type=natural_int, metavar="N", help="exit code 1 where more training pictures come back")
    add("--output", type=Path, default=Path("audit_outputs"), help="folder of the page, the numbers and the runs")


def add_attack_options(parser: argparse.ArgumentParser) -> None:
    """Extraction attacks beside generating the captions."""
    add = parser.add_argument_group("attacks").add_argument
    text = "extraction attacks on the captions that are generated: contrast, guidance away from the base; embeddings, "
    text += "searched to bring the pictures back, with those of --controls as what was never trained on"
    add("--attacks", nargs="+", choices=tuple(ATTACKS), default=[], help=text)
    add("--contrast_scale", type=positive_float, help="of contrast, by default as released: 5 of a LoRA, 3 of others")
    add("--search_steps", type=positive_int, default=STEPS, help="of each search for an embedding")
