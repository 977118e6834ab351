"""For an audit of mitigations: find, for each prompt, an embedding that brings its training image back.

    python tools/search_embeddings.py --output found.safetensors
    python inference_mem.py --prompt_embeds found.safetensors --run_name audit ...      as any other run

The embeddings are searched without mitigation; the runs show which mitigations they get past. Cut off, the same command
goes on with the prompts that are left.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from local_sd_pipeline import encode_images
from memorization.bundled import PLANTED
from memorization.data.pictures import read_image
from memorization.data.prompts import load_prompts
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.files.whole import make_folder, replacing
from memorization.models.stable_diffusion import load_pipeline
from memorization.seeds import image_seed
from optim_utils import BATCH, LR, STEPS, search_embedding


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="planted_mem_groundtruth", help="*_groundtruth folder")
    parser.add_argument("--model_id", default=str(PLANTED / "planted_sd"))
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--end", type=int, default=500)
    parser.add_argument("--gen_seed", type=int, default=0)
    parser.add_argument("--num_steps", type=int, default=STEPS)
    parser.add_argument("--lr", type=float, default=LR)
    parser.add_argument("--batch_size", type=int, default=BATCH)
    parser.add_argument("--output", type=Path, required=True, help=".safetensors file, an embedding a prompt index")
    return parser


def read_found(args):
    """What an earlier call found: embeddings and mean losses by prompt index.

    Raises:
        InputError: if the file is damaged, or of other settings.
    """
    if not args.output.exists():
        return {}, {}
    try:
        with safe_open(args.output, "pt") as file:
            metadata = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"cannot read {args.output}: {error}; delete it") from error
    if metadata.get("settings") != settings(args):
        raise InputError(f"{args.output} was searched with other settings; give another --output")
    return found, metadata["losses"]


def settings(args):
    names = ("model_id", "dataset", "gen_seed", "num_steps", "lr", "batch_size")
    return {name: getattr(args, name) for name in names}


def write_found(args, found, losses):
    metadata = {"settings": json.dumps(settings(args)), "losses": json.dumps(losses)}
    with replacing(args.output) as temporary:
        save_file(found, temporary, metadata)


def search(args):
    """Search for the prompts that are left, each kept when it is found; returns all mean losses."""
    records, (found, losses) = load_prompts(args.dataset, args.start, args.end), read_found(args)
    lacking = next((r for r in records if not r.reference_images), None)
    if lacking is not None:
        raise InputError(f"{args.dataset} has no training image of prompt {lacking.index}")
    left = [r for r in records if str(r.index) not in found]
    if not left:
        return losses
    make_folder(args.output.parent, "--output")
    with input_errors():
        pipe = load_pipeline(args.model_id)
    for record in tqdm(left, desc="search", unit="prompt"):
        latents = encode_images(pipe, [read_image(p) for p in record.reference_images])
        start, seed = pipe.encode([record.prompt])[0], image_seed(args.gen_seed, record.index, 0)
        embeds, history = search_embedding(pipe, latents, start, seed, args.num_steps, args.lr, args.batch_size)
        found[str(record.index)] = embeds[0].contiguous().cpu()
        losses[str(record.index)] = float(np.mean(history[-10:]))  # of the last ten steps
        write_found(args, found, losses)
    return losses


def main(argv=None):
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        losses = search(args)
        mean = np.mean(list(losses.values()))
        print(f"{len(losses)} embeddings, mean loss of the last ten steps {mean:.4f}\n{args.output}")


if __name__ == "__main__":
    main()
