"""Look at one prompt and see everything, in the browser.

    python explore.py
    python explore.py --model_id CompVis/stable-diffusion-v1-4 --ordinary captions.jsonl --index my_index
    python explore.py --models MODELS --loras LORAS

Opens a page on this machine: a prompt and a seed, and as it is generated the picture, D per step against ordinary
captions, the bright ending, where each token looks, training pictures, and the same seed under mitigations. The
numbers are those of the other scripts, whose command lines the page tells.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from memorization.errors import InputError, exit_on_input_error
from memorization.explorer.sessions import Explorer
from memorization.explorer.world import World
from memorization.plugins import add_plugin_option, load_named_plugins
from memorization.runs.arguments import HelpFormatter, Switch, add_model_options, natural_int
from memorization.similarity.measure import add_evaluator_options

THIS_MACHINE = "127.0.0.1"


def make_parser() -> argparse.ArgumentParser:
    """The command line; models are as of the other scripts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument_group("page").add_argument
    add("--host", default=THIS_MACHINE, help="address to listen on; 0.0.0.0 lets every machine that reaches it look")
    add("--port", type=natural_int, default=7860, help="0 takes a free one")
    add("--browser", action=Switch, default=False, help="open the page in the browser")
    add_plugin_option(parser)
    add_model_options(parser.add_argument_group("model").add_argument)
    add = parser.add_argument_group("choices of the page").add_argument
    add("--models", type=Path, metavar="FOLDER", help="model folders and single files in it can be chosen as well")
    add("--loras", type=Path, metavar="FOLDER", help="LoRA files in it can be chosen")
    add = parser.add_argument_group("what pictures are compared with").add_argument
    text = "data set with training pictures, by whose prompts they are known; of the bundled model its own"
    add("--dataset", help=text)
    add("--index", type=Path, help="of a training set, by tools/index_training_set.py: its nearest pictures are shown")
    add("--ordinary", metavar="DATASET", help="captions that are not memorized, the controls; by default bundled ones")
    text = "captions that are measured once for every way of sampling; 0 does without p-values"
    add("--num_controls", type=natural_int, default=39, help=text)
    text = "evaluation; of the bundled model by default its own"
    add_evaluator_options(parser.add_argument_group(text))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line: open the page, until it is interrupted."""
    with exit_on_input_error():
        load_named_plugins(argv)
        args = make_parser().parse_args(argv)
        serve = import_server()
        explorer = Explorer(World.from_args(args))
        try:
            page = serve(explorer, args.host, args.port or None, in_browser=args.browser)
        except OSError as error:
            raise InputError(f"cannot listen on {args.host}:{args.port} ({error}); choose another --port") from error
        print(f"{page.local_url}  (Ctrl+C ends it)", flush=True)
        page.block_thread()


def import_server():
    """What serves the page.

    Raises:
        InputError: if the package gradio is not there.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is told to anybody
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        from memorization.explorer.serving import serve
    except ModuleNotFoundError as error:
        raise InputError('explore.py needs the package gradio: pip install -e ".[explorer]"') from error
    return serve


if __name__ == "__main__":
    main()
