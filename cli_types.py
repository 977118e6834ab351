"""What the values of command-line options may be."""

import argparse
import math
import re

LARGEST_SEED = 2**32 - 1
LARGEST_COUNT = 10**12  # of whole numbers; beyond it they no longer fit where they go
LARGEST_IMAGE = 8192  # pixels
MAX_ADDED_WORDS = 1000
LONGEST_NAME = 150  # bytes; file systems end at 255, and endings are added
MAX_IMAGES = 1000  # run_utils.image_seed gives k three digits
TRUE_WORDS, FALSE_WORDS = {"true", "yes", "1"}, {"false", "no", "0"}


class Switch(argparse.Action):
    """A boolean as `--flag`, `--no-flag`, `--flag True` or `--flag False`, as the original's users type it."""

    def __init__(self, option_strings, dest, **kwargs):
        negated = [f"--no-{o[2:]}" for o in option_strings]
        super().__init__([*option_strings, *negated], dest, nargs="?", metavar="BOOL", **kwargs)

    def __call__(self, parser, namespace, value, option_string=None):
        if option_string.startswith("--no-"):
            if value is not None:
                parser.error(f"{option_string} takes no value, not {value!r}")
            setattr(namespace, self.dest, False)
        elif value is None or value.lower() in TRUE_WORDS:
            setattr(namespace, self.dest, True)
        elif value.lower() in FALSE_WORDS:
            setattr(namespace, self.dest, False)
        else:
            parser.error(f"{option_string} takes true or false, not {value!r}")


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return at_most(value, LARGEST_COUNT)


def at_most(value, largest):
    if value > largest:
        raise argparse.ArgumentTypeError(f"{value} is above {largest}")
    return value


def pixels(text):
    return at_most(positive_int(text), LARGEST_IMAGE)


def word_count(text):
    return at_most(natural_int(text), MAX_ADDED_WORDS)


def file_name(text):
    """A name that files can be called by, in the folder they belong to."""
    if not text or text.startswith(".") or "/" in text or "\\" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no name for files: use letters, digits, _ and -")
    if len(text.encode()) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"a name of {len(text.encode())} bytes is longer than {LONGEST_NAME}")
    return text


def natural_int(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return at_most(value, LARGEST_COUNT)


def seed_int(text):
    value = natural_int(text)
    if value > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is above {LARGEST_SEED}")
    return value


def image_count(text):
    value = positive_int(text)
    if value > MAX_IMAGES:
        raise argparse.ArgumentTypeError(f"{text} is above {MAX_IMAGES}, where image seeds would repeat")
    return value


def finite_float(text):
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def device_name(text):
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:N, mps")
    return text


def natural_float(text):
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def positive_float(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value
