"""For an audit of mitigations: find, for each prompt, an embedding that brings its training image back.

    python tools/search_embeddings.py --output found.safetensors
    python inference_mem.py --prompt_embeds found.safetensors --run_name audit ...      as any other run

The embeddings are searched without mitigation; the runs show which mitigations they get past. Cut off, the same command
goes on with the prompts that are left.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memorization.bundled import GROUND_TRUTH, MODEL
from memorization.data.contents import dataset_content
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.embedding_search import BATCH, LR, STEPS
from memorization.errors import exit_on_input_error, input_errors
from memorization.identity import names_of
from memorization.models.contents import pipeline_contents, source_contents
from memorization.models.stable_diffusion import load_pipeline
from memorization.needs import NOISE, refuse_undefined
from memorization.runs.arguments import HelpFormatter
from memorization.runs.embedding_search import Found, SearchSettings, refuse_without_images, search_records
from memorization.runs.settings import from_arguments

DTYPES = ("float32", "bfloat16", "float16")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--dataset", default=GROUND_TRUTH.name, help="*_groundtruth folder")
    add("--model_id", default=str(MODEL), help="diffusers folder or hub id")
    add("--start", type=int, default=0, help="first prompt by position")
    add("--end", type=int, default=500, help="one past the last prompt")
    add("--gen_seed", type=int, default=0, help="of noise and timesteps")
    add("--num_steps", type=int, default=STEPS, help="of Adam")
    add("--lr", type=float, default=LR, help="learning rate of Adam")
    add("--batch_size", type=int, default=BATCH, help="noises per step")
    add("--dtype", default="float32", choices=DTYPES, help="of the search; half precision takes half the memory")
    add("--output", type=Path, required=True, help=".safetensors file, an embedding per prompt index")
    return parser


def search(records: Sequence[PromptRecord], settings: SearchSettings, output: Path) -> dict[str, float]:
    """Search for the prompts that are left, each kept when it is found; returns all mean losses.

    Raises:
        InputError: if a prompt has no training image, or the output is of other settings.
    """
    refuse_without_images(records, settings.dataset)
    with input_errors():
        contents = names_of({"dataset": dataset_content(settings.dataset)}) | source_contents(settings.model_id)
    found = Found.read(output, settings.kept(contents))
    if all(str(r.index) in found.embeds for r in records):
        return found.losses
    with input_errors():
        pipe = load_pipeline(settings.model_id, dtype=settings.dtype)
        refuse_undefined("search_embeddings.py", (NOISE,), pipe)
    # Of the hub, the content is known now.
    return search_records(pipe, records, settings, contents | pipeline_contents(pipe), output)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        records = load_prompts(args.dataset, args.start, args.end)
        losses = search(records, from_arguments(SearchSettings, args), args.output)
        mean = np.mean(list(losses.values()))
        print(f"{len(losses)} embeddings, mean loss of the last ten steps {mean:.4f}\n{args.output}")


if __name__ == "__main__":
    main()
