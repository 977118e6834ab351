"""Command lines of the two scripts: the original's words, with every flag doing what its help says."""

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from memorization.bundled import MODEL
from memorization.models.devices import OFFLOADS
from memorization.plugins import add_plugin_option
from memorization.registry import nearest
from memorization.runs.settings import USUAL_END
from memorization.seeds import LARGEST_SEED, MAX_IMAGES
from memorization.tables import Table

LARGEST_COUNT = 10**12  # of whole numbers; beyond it they no longer fit where they go
LARGEST_IMAGE = 8192  # pixels
MAX_ADDED_WORDS = 1000
LONGEST_NAME = 150  # bytes; file systems end at 255, and endings are added
TRUE_WORDS, FALSE_WORDS = {"true", "yes", "1"}, {"false", "no", "0"}
TRACKERS = ("jsonl", "tensorboard", "wandb", "trackio")  # the last three are accelerate's


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written, and every option with its default."""


def common_parser(
    description: str | None, dataset: Path, end: int | None = USUAL_END, end_help: str = "one past the last prompt"
) -> argparse.ArgumentParser:
    """A parser with the arguments that both scripts share.

    Args:
        description: what the script does.
        dataset: prompts of the bundled model that it takes by default.
        end, end_help: of --end.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    add_run_options(parser.add_argument_group("run").add_argument, dataset, end, end_help)
    add_plugin_option(parser)
    add_model_options(parser.add_argument_group("model").add_argument)
    add_sampling_options(parser.add_argument_group("sampling").add_argument)
    add = parser.add_argument_group("output").add_argument
    add("--store_img_npz", action=Switch, default=True, help="all images as one npz")
    add("--store_img_png", action=Switch, default=True, help="each image as PNG")
    return parser


def add_run_options(add: Callable[..., object], dataset: Path, end: int | None, end_help: str) -> None:
    add("--run_name", type=file_name, default="test", help="names the result files")
    add(
        "--dataset",
        default=str(dataset),
        help=".jsonl, .json, .csv, .tsv, .parquet, *_groundtruth folder, folder of NNN.jpg + NNN.txt, `random`, hub id",
    )
    add("--prompt_key", help="column of the prompt in a file or a Hugging Face data set")
    add("--start", type=natural_int, default=0, help="first prompt by position")
    add("--end", type=natural_int, default=end, help=end_help)
    add("--clean_prompts", action=Switch, default=True, help="mend mojibake and HTML entities")
    add("--overwrite", action=Switch, default=False, help="replace results of this run name")
    add("--output_dir", type=Path, default=Path("."), help="where the three output folders are")
    add("--with_tracking", action=Switch, default=False, help="log pace, means and the final evaluation by --tracker")
    add(
        "--tracker",
        default="jsonl",
        choices=TRACKERS,
        help="jsonl: det_outputs/*.tracking.jsonl; others need a package",
    )


def add_model_options(add: Callable[..., object]) -> None:
    add("--model_id", default=str(MODEL), help="diffusers folder, hub id or single file (.safetensors, .ckpt)")
    add("--config", help="folder or hub id whose configs and tokenizer a single file goes with; else they are fetched")
    add("--unet_id", help="folder or hub id of a fine-tuned UNet")
    add("--transformer_id", help="the same of a transformer, for Stable Diffusion 3 and Flux.1")
    add("--vae_id", help="the same of a VAE")
    add(
        "--lora",
        action="append",
        metavar="PATH_OR_ID[:SCALE]",
        help="LoRA in diffusers', peft's or kohya's format, merged into the weights; may be given several times",
    )
    add(
        "--embedding",
        action="append",
        metavar="PATH_OR_ID[:TOKEN]",
        help="token of textual inversion; may be given several times",
    )
    add("--device", type=device_name, default="auto", help="auto (CUDA, MPS, CPU), cuda, cuda:N, mps, cpu")
    add(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="auto: float16 on CUDA (Stable Diffusion 3, Flux.1: bfloat16), float32 elsewhere",
    )
    add("--channels_last", action=Switch, default=False, help="memory format, faster on many devices")
    add(
        "--offload",
        default="none",
        choices=OFFLOADS,
        help="keep the model off a CUDA device but for the part (model) or layer (sequential) that computes",
    )
    add("--compile", action=Switch, default=False, help="torch.compile: slow start, then faster")


def add_sampling_options(add: Callable[..., object]) -> None:
    add("--gen_seed", type=seed_int, default=0, help="image k of prompt i depends on this, i and k")
    add(
        "--seed_mode",
        default="per_image",
        choices=("per_image", "shared", "original"),
        help="shared: image k of every prompt from the same noise, of gen_seed and k; original: all images of a prompt "
        "from one generator seeded gen_seed + index, as the released code",
    )
    add("--image_length", type=pixels, help="pixels; by default the model's own (512 for SD 1.x)")
    add(
        "--guidance_scale",
        type=finite_float,
        help="of classifier-free guidance; by default the model's usual: 7.5, SDXL 5, Stable Diffusion 3 7, Flux.1 3.5",
    )
    add("--num_inference_steps", type=positive_int, default=50, help="DDIM steps, or Euler's of flow matching")
    add("--batch_size", type=positive_int, default=16, help="images per UNet call, of several prompts")
    add(
        "--grad_batch_size",
        type=positive_int,
        help="images that a gradient is taken of at a time, by default as many as fit into memory",
    )


def arguments_of(parser: argparse.ArgumentParser, options: Mapping[str, object]) -> argparse.Namespace:
    """What a command line with these options would give: the parser's defaults for all others.

    Raises:
        TypeError: for an option that the command line does not have.
    """
    args = parser.parse_args([])
    types = {action.dest: action.type for action in parser._actions}
    unknown = next((name for name in options if name not in types), None)
    if unknown is not None:
        raise TypeError(f"there is no option {unknown!r}; {nearest(unknown, list(types))}")
    for name, value in options.items():
        read = types[name]
        setattr(args, name, read(value) if isinstance(value, str) and callable(read) else value)
    return args


class TableAction(argparse.Action):
    """Print a table and end, as --help does."""

    def __init__(self, option_strings: Sequence[str], dest: str, table: Callable[[], Table], help: str | None = None):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help, default=argparse.SUPPRESS)
        self.table = table

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(self.table().markdown())
        parser.exit()


class Switch(argparse.Action):
    """A boolean as `--flag`, `--no-flag`, `--flag True` or `--flag False`, as the original's users type it."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs):
        negated = [f"--no-{o[2:]}" for o in option_strings]
        super().__init__([*option_strings, *negated], dest, nargs="?", metavar="BOOL", **kwargs)

    def __call__(self, parser, namespace, value, option_string=None) -> None:
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


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return at_most(value, LARGEST_COUNT)


def at_most(value: int, largest: int) -> int:
    if value > largest:
        raise argparse.ArgumentTypeError(f"{value} is above {largest}")
    return value


def pixels(text: str) -> int:
    return at_most(positive_int(text), LARGEST_IMAGE)


def word_count(text: str) -> int:
    return at_most(natural_int(text), MAX_ADDED_WORDS)


def file_name(text: str) -> str:
    """A name that files can be called by, in the folder they belong to."""
    if not text or text.startswith(".") or "/" in text or "\\" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no name for files: use letters, digits, _ and -")
    if len(text.encode()) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"a name of {len(text.encode())} bytes is longer than {LONGEST_NAME}")
    return text


def natural_int(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return at_most(value, LARGEST_COUNT)


def seed_int(text: str) -> int:
    value = natural_int(text)
    if value > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is above {LARGEST_SEED}")
    return value


def image_count(text: str) -> int:
    value = positive_int(text)
    if value > MAX_IMAGES:
        raise argparse.ArgumentTypeError(f"{text} is above {MAX_IMAGES}, where image seeds would repeat")
    return value


def finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def device_name(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:N, mps")
    return text


def add_quality_options(parser: argparse.ArgumentParser) -> None:
    """What images are measured with beside similarity, in eval_mem.py."""
    add = parser.add_argument_group("quality").add_argument
    text = "plain generation of ordinary prompts, or a folder of pictures, instead of plain generation among the runs"
    add("--quality_reference", type=Path, metavar="RUN_OR_FOLDER", help=text)
    add("--quality_model", help="open_clip model of CMMD, instead of --reference_model; its authors' is ViT-L-14-336")
    add("--quality_model_pretrain", default="openai", help="its weights: tag or file")
    add("--fid", action=Switch, default=False, help="FID and KID as well, from the package torchmetrics")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", type=evaluation_device, default="cpu", help="cpu, cuda, cuda:N, mps or auto")


def evaluation_device(text: str) -> str:
    """A device that is there; auto takes CUDA, then the CPU."""
    name, has_cuda = device_name(text), torch.cuda.is_available()
    if name.startswith("cuda") and not has_cuda:
        raise argparse.ArgumentTypeError(f"{text} is not there; leave --device at cpu")
    return ("cuda" if has_cuda else "cpu") if name == "auto" else name


def horizon(text: str) -> int | None:
    """T as a whole number from 1 on, or None for `all`."""
    return None if text == "all" else positive_int(text)


def rate(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def add_decision_options(add: Callable[..., object]) -> None:
    """By which controls, at which rate and by which score prompts are decided."""
    add("--controls", type=Path, metavar="ROWS", help="finished run of prompts that are not memorized, to compare with")
    add("--fdr", type=rate, default=0.05, help="false discovery rate: share of false ones among those called memorized")
    add("--score", default="D", help="score that --controls decides by: a label of tables, as D or LD, or a row's key")
    add("--horizon", type=horizon, default=1, help="its T: a number or all")


def natural_float(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value
