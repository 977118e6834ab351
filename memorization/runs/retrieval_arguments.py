"""Command line of eval_mem.py retrieval."""

import argparse
from pathlib import Path

from memorization.evaluation.retrieval import RetrievalSettings
from memorization.runs.arguments import Switch, natural_int, positive_int
from memorization.similarity.index.split import DOT, KINDS
from memorization.similarity.measure import add_evaluator_options


def add_retrieval_options(parser: argparse.ArgumentParser) -> None:
    """Which generations, which training set, and how they are compared."""
    usual, add = RetrievalSettings(), parser.add_argument
    text = "result files with images, or folders of generations"
    add("runs", type=Path, nargs="+", metavar="RUN_OR_FOLDER", help=text)
    add("--index", type=Path, required=True, help="of the training set, by tools/index_training_set.py")
    text = "the same of captions that were never trained on, or of the model before it was trained"
    add("--controls", type=Path, nargs="+", default=[], metavar="RUN_OR_FOLDER", help=text)
    add("--similarity", default=DOT, choices=KINDS, help="of descriptors: whole, or the most similar of their chunks")
    add("--chunks", type=positive_int, default=usual.chunks, help="that splitloss and splitlosscross cut into")
    add("--background", type=positive_int, default=usual.background, help="training pictures that stand for the set")
    text = "similarity to another training picture from which one counts as duplicated"
    add("--duplicates", type=float, default=usual.duplicates, help=text)
    add("--gallery", type=natural_int, default=usual.gallery, help="generations shown with their ten most similar")
    add("--faiss", action=Switch, default=False, help="search the approximate index, which --faiss made with the index")
    add("--fid", action=Switch, default=False, help="FID and KID as well, from the package torchmetrics")
    add_evaluator_options(parser)
