"""For an audit of mitigations: find, for each prompt, an embedding that brings its training image back.

    python tools/search_embeddings.py --output found.safetensors
    python inference_mem.py --prompt_embeds found.safetensors --run_name audit ...      as any other run

The embeddings are searched without mitigation; the runs show which mitigations they get past. Cut off, the same command
goes on with the prompts that are left.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from local_sd_pipeline import DenoisingPipeline
from memorization.bundled import GROUND_TRUTH, MODEL, bundled_name
from memorization.data.contents import dataset_content
from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.embedding_search import BATCH, LR, STEPS, search_embedding
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.files.whole import make_folder, replacing
from memorization.identity import CONTENT, change_text, differing, names_of
from memorization.models.contents import pipeline_contents, source_contents
from memorization.models.stable_diffusion import load_pipeline
from memorization.needs import NOISE, refuse_undefined
from memorization.runs.arguments import HelpFormatter
from memorization.runs.settings import from_arguments
from memorization.seeds import image_seed

DTYPES = ("float32", "bfloat16", "float16")
LATE_STEPS = 10  # at the end of a search, whose mean loss is told


@dataclass(frozen=True)
class SearchSettings:
    """What decides the embeddings, by the names of the command line; kept in the output."""

    model_id: str
    dataset: str
    gen_seed: int
    num_steps: int
    lr: float
    batch_size: int
    dtype: str = "float32"

    def kept(self, contents: Mapping[str, str]) -> dict[str, object]:
        """As they stand in the output, with the contents of model and data set."""
        return {name: bundled_name(value) for name, value in asdict(self).items()} | {CONTENT: dict(contents)}


@dataclass(frozen=True)
class Found:
    """Embeddings, (tokens, dim) each, and mean losses of the last steps by prompt index."""

    embeds: dict[str, torch.Tensor]
    losses: dict[str, float]

    @classmethod
    def read(cls, path: Path, settings: Mapping[str, object]) -> "Found":
        """What an earlier call found; nothing without one.

        Args:
            settings: that it has to have been searched with.

        Raises:
            InputError: if the file is damaged, or of other settings.
        """
        if not path.exists():
            return cls({}, {})
        try:
            with safe_open(path, "pt") as file:
                metadata = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
                embeds = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}; delete it") from error
        former = metadata.get("settings", {})
        changed = [change_text(name, former, settings) for name in differing(former, settings)]
        if changed:
            raise InputError(f"{path} was searched with other settings ({', '.join(changed)}); give another --output")
        return cls(embeds, metadata["losses"])

    def write(self, path: Path, settings: Mapping[str, object]) -> None:
        metadata = {"settings": json.dumps(settings), "losses": json.dumps(self.losses)}
        with replacing(path) as temporary:
            save_file(self.embeds, temporary, metadata)


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


def search_prompt(
    pipe: DenoisingPipeline, record: PromptRecord, settings: SearchSettings
) -> tuple[torch.Tensor, float]:
    """An embedding (tokens, dim) for a prompt's training images, and the mean loss of its last steps."""
    latents = pipe.encode_images([read_image(p) for p in record.reference_images])
    start, seed = pipe.encode([record.prompt])[0], image_seed(settings.gen_seed, record.index, 0)
    embeds, losses = search_embedding(pipe, latents, start, seed, settings.num_steps, settings.lr, settings.batch_size)
    return embeds[0].contiguous().cpu(), float(np.mean(losses[-LATE_STEPS:]))


def search(records: Sequence[PromptRecord], settings: SearchSettings, output: Path) -> dict[str, float]:
    """Search for the prompts that are left, each kept when it is found; returns all mean losses.

    Raises:
        InputError: if a prompt has no training image, or the output is of other settings.
    """
    lacking = next((r for r in records if not r.reference_images), None)
    if lacking is not None:
        raise InputError(f"{settings.dataset} has no training image of prompt {lacking.index}")
    with input_errors():
        contents = names_of({"dataset": dataset_content(settings.dataset)}) | source_contents(settings.model_id)
    found = Found.read(output, settings.kept(contents))
    left = [r for r in records if str(r.index) not in found.embeds]
    if not left:
        return found.losses
    make_folder(output.parent, "--output")
    with input_errors():
        pipe = load_pipeline(settings.model_id, dtype=settings.dtype)
        refuse_undefined("search_embeddings.py", (NOISE,), pipe)
    kept = settings.kept(contents | pipeline_contents(pipe))  # of the hub, the content is known now
    for record in tqdm(left, desc="search", unit="prompt"):
        key = str(record.index)
        with input_errors():
            found.embeds[key], found.losses[key] = search_prompt(pipe, record, settings)
        found.write(output, kept)
    return found.losses


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        records = load_prompts(args.dataset, args.start, args.end)
        losses = search(records, from_arguments(SearchSettings, args), args.output)
        mean = np.mean(list(losses.values()))
        print(f"{len(losses)} embeddings, mean loss of the last ten steps {mean:.4f}\n{args.output}")


if __name__ == "__main__":
    main()
