"""For an audit of mitigations: find, for each prompt, an embedding that brings its training image back.

    python examples/search_embeddings.py --output found.safetensors
    python inference_mem.py --prompt_embeds found.safetensors --run_name audit ...      as any other run

The embeddings are searched without mitigation; the runs show which mitigations they get past.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from data_utils import load_prompts, read_image  # noqa: E402
from embedding_search import BATCH, LR, STEPS, encode_images, search_embedding  # noqa: E402
from local_sd_pipeline import load_pipeline  # noqa: E402
from run_utils import InputError, exit_on_input_error, image_seed, input_errors, replacing  # noqa: E402


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="planted_mem_groundtruth", help="*_groundtruth folder")
    parser.add_argument("--model_id", default=str(HERE / "planted_sd"))
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--end", type=int, default=500)
    parser.add_argument("--gen_seed", type=int, default=0)
    parser.add_argument("--num_steps", type=int, default=STEPS)
    parser.add_argument("--lr", type=float, default=LR)
    parser.add_argument("--batch_size", type=int, default=BATCH)
    parser.add_argument("--output", type=Path, required=True, help=".safetensors file, an embedding a prompt index")
    return parser


def search(args):
    """Embeddings by prompt index, and the mean loss over the last ten steps of each."""
    records = load_prompts(args.dataset, args.start, args.end)
    lacking = next((r for r in records if not r.reference_images), None)
    if lacking is not None:
        raise InputError(f"{args.dataset} has no training image of prompt {lacking.index}")
    with input_errors():
        pipe = load_pipeline(args.model_id)
    found, losses = {}, []
    for record in tqdm(records, desc="search", unit="prompt"):
        latents = encode_images(pipe, [read_image(p) for p in record.reference_images])
        start, seed = pipe.encode([record.prompt])[0], image_seed(args.gen_seed, record.index, 0)
        embeds, history = search_embedding(pipe, latents, start, seed, args.num_steps, args.lr, args.batch_size)
        found[str(record.index)] = embeds[0].contiguous().cpu()
        losses.append(np.mean(history[-10:]))
    return found, losses


def main(argv=None):
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        found, losses = search(args)
        with replacing(args.output) as temporary:
            save_file(found, temporary)
        print(f"{len(found)} embeddings, mean loss of the last ten steps {np.mean(losses):.4f}\n{args.output}")


if __name__ == "__main__":
    main()
