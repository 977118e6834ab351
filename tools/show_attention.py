"""See the attention: one picture with a tile for each token of a prompt, begin and end token included.

    python tools/show_attention.py "the wild owl poster" --output tiles.png
    python tools/show_attention.py "the wild owl poster" --place down --resolution 16 --steps=-1
    python tools/show_attention.py "the wild owl poster" --strip --steps 0,12,24,49
    python tools/show_attention.py "the wild owl poster" --self 6 --resolution 16

Cross-attention of the chosen layers, averaged over heads, layers and steps, as prompt-to-prompt aggregates it; --self
shows the first components of self-attention instead. A JSON of the same name says what is shown, for
`eval_mem.py report --attention`. The image is that of `detect_mem.py` with the same seed.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

import memorization
from memorization.bundled import MODEL, bundled_name
from memorization.errors import exit_on_input_error
from memorization.files.whole import make_folder, write_text
from memorization.report.attention_figures import strip_figure, tiles_figure
from memorization.report.theme import theme
from memorization.runs.arguments import HelpFormatter, device_name, positive_int, seed_int
from memorization.tiles import AttentionTiles
from memorization.token_attention import PLACES


def step_list(text: str) -> list[int] | None:
    """Steps of a command line: `all`, or numbers with commas."""
    return None if text == "all" else [int(word) for word in text.split(",")]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("prompt", help="what is generated")
    add("--output", type=Path, default=Path("attention.png"), help="the picture")
    add("--model_id", default=str(MODEL), help="diffusers folder or hub id")
    add("--device", type=device_name, default="auto", help="auto (CUDA, MPS, CPU), cuda, cuda:N, mps, cpu")
    add("--seed", type=seed_int, default=0, help="of the starting noise")
    add("--num_inference_steps", type=positive_int, default=50, help="DDIM steps")
    add("--guidance_scale", type=float, help="of classifier-free guidance, by default the model's usual")
    add("--layer", action="append", default=[], help="part of a layer's name, such as down_blocks.0; repeatable")
    add("--place", action="append", default=[], choices=PLACES, help="where layers are; repeatable")
    add("--resolution", type=positive_int, action="append", default=[], help="height of the maps; repeatable")
    add("--steps", type=step_list, default="all", help="all, or numbers with commas from 0; -1 is the last")
    add("--strip", action="store_true", help="a row for each step instead of their average")
    add("--self", type=positive_int, default=0, dest="components", help="so many components of self-attention instead")
    return parser


def what_is_shown(args: argparse.Namespace, tiles: AttentionTiles) -> dict[str, object]:
    """What has to be known of the picture, for `eval_mem.py report --attention`."""
    names = ("prompt", "seed", "num_inference_steps", "guidance_scale")
    kept = {name: getattr(args, name) for name in names} | {"model_id": bundled_name(args.model_id)}
    return kept | {name: list(getattr(tiles, name)) for name in ("tokens", "layers", "steps")}


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    plt.switch_backend("agg")  # a file only, whether there is a display or not
    with exit_on_input_error():
        make_folder(args.output.parent, "--output")
        pipe = memorization.load_pipeline(args.model_id, device=args.device)
        tiles = memorization.attention_tiles(
            pipe,
            args.prompt,
            layers=args.layer,
            places=args.place,
            resolutions=args.resolution,
            steps=args.steps,
            self_components=args.components,
            seed=args.seed,
            num_inference_steps=args.num_inference_steps,
            guidance_scale=args.guidance_scale,
        )
        with theme():
            figure = strip_figure(tiles) if args.strip else tiles_figure(tiles)
            figure.savefig(args.output, dpi=150)
        write_text(args.output.with_suffix(".json"), json.dumps(what_is_shown(args, tiles), indent=1) + "\n")
    print(f"{args.output}: {len(tiles.tokens)} tiles of {len(tiles.layers)} layers, {len(tiles.steps)} steps")


if __name__ == "__main__":
    main()
