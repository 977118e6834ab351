"""Generate with or without mitigation: PE, SS, PR and their combinations, or random perturbation.

    python inference_mem.py                                     plain generation
    python inference_mem.py --optim_target_loss 1               PE
    python inference_mem.py --l_target_ss 1 --l_target_pr 3 --mag_thres_pr 5        PRSS
    python inference_mem.py --run_version ours_A ...            the same with bright-ending masks

Rows go to det_outputs/, images to images_data/, both under the run name and the method, so that runs of
one name do not overwrite one another. The same command after an interruption goes on where it stopped.
"""

import json
import random

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from cli_args import check_inference_args, inference_parser, method_name, uses_masks
from eval_mitigation import MEASURES as SIMILARITIES
from eval_mitigation import Evaluators, measure_run
from methods import run_method
from mitigation import ImageBatch, MitigationOptions, mitigate
from processes import Processes
from prompt_aug import augment_prompt
from result_files import read_run
from run_masks import RunMasks
from run_utils import InputError, exit_on_input_error, format_table, input_errors, plain, replace_link, write_text
from session import Session
from similarity import ClipSimilarity, CopyDescriptor, similarity_to_references

METHOD_SETTINGS = (
    "run_version", "optim_target_loss", "optim_lr", "optim_iters", "l_target_ss", "l_target_pr", "mag_thres_pr",
    "pr_mask", "prompt_aug_style", "repeat_num", "rand_noise_lam", "attn_scores", "method", "strength",
    "prompt_embeds",
)  # fmt: skip
COLUMNS = ("kind", "triggered", "unet_evals_per_image", "magnitude_before", "magnitude_after")
ORDINARY_PROMPTS = 100  # that neuron_off takes its statistics from
MEASURES = ("magnitude_before", "magnitude_after", "pixel_similarity")


def run_key(args):
    return f"{args.run_name}_{method_name(args)}"


class Mitigation:
    """Generates groups of prompts; every decision is made per image."""

    def __init__(self, args, session):
        self.args, self.session, self.pipe = args, session, session.pipe
        self.method = method_name(args)
        self.options = MitigationOptions.from_args(args, self.ordinary_text())
        self.evaluators = self.open_evaluators() if session.processes.is_main else Evaluators()
        self.masks = RunMasks(args, session) if uses_masks(args) else None
        self.given = read_embeddings(args.prompt_embeds, session) if args.prompt_embeds else {}

    def ordinary_text(self):
        """Embeddings of prompts of random words, for the method that compares with them."""
        if self.args.method != "neuron_off":
            return None
        prompts = [self.session.random_prompt(random.Random(k)) for k in range(ORDINARY_PROMPTS)]
        return self.pipe.encode(prompts)[0]

    def open_evaluators(self):
        """Evaluators of --sscd and --reference_model, opened first so that a fault shows before the work."""
        args, descriptor, clip = self.args, None, None
        if args.sscd is not None:
            lacking = next((r for r in self.session.records if not r.reference_images), None)
            if lacking is not None:
                raise InputError(f"--sscd needs training images: {args.dataset} has none of prompt {lacking.index}")
            with input_errors():
                descriptor = CopyDescriptor(args.sscd, args.sscd_preprocessing, self.pipe.device)
        if args.reference_model is not None:
            try:
                clip = ClipSimilarity(args.reference_model, args.reference_model_pretrain, self.pipe.device)
            except ValueError as error:  # the documented commands name a model of gigabytes: no reason to stop
                tqdm.write(f"warning: no CLIP similarity: {error}")
        return Evaluators(descriptor, clip)

    def run(self):
        self.session.run_groups(self.method, self.run_group)

    def run_group(self, group):
        """Some prompts from their noise to their latents, in shared UNet calls; the rest is handed over."""
        session, count = self.session, self.args.num_images_per_prompt
        prompts = [self.perturbed_prompt(r) for r in group]
        encoded = [self.encode(p, r) for p, r in zip(prompts, group, strict=True)]
        masks = None if self.masks is None else self.masks.of(group, [text[:1] for text, _ in encoded])
        images = ImageBatch(
            latents=torch.cat([session.latents(r) for r in group]),
            seeds=[seed for r in group for seed in session.seeds(r)],
            candidates=[text for text, _ in encoded for _ in range(count)],
            negative=encoded[0][1][:1],
            mask=None if masks is None else masks.to(self.pipe.device),
            prompts=[p for p in prompts for _ in range(count)],
            end_tokens=[self.pipe.end_token(p) for p in prompts for _ in range(count)],
        )
        pieces = [self.generate(chunk) for chunk in images.chunks(self.args.batch_size)]
        session.writer.submit(self.write_group, group, prompts, pieces)

    def encode(self, prompt, record):
        """Features of a prompt and its alternatives, and of the empty prompt; --prompt_embeds replaces the first."""
        text, negative = self.pipe.encode([prompt, *self.alternatives(record)])
        if self.given:
            text = torch.cat([self.given[record.index].to(text)[None], text[1:]])
        return text, negative

    def generate(self, images):
        if self.args.method is None:
            return mitigate(self.pipe, self.options, images)
        return run_method(self.pipe, self.options, images, self.args.method, self.args.strength)

    def write_group(self, group, prompts, pieces):
        """Images first and the rows last: a row says that everything of its prompt is there."""
        latents, count = torch.cat([p.latents for p in pieces]), self.args.num_images_per_prompt
        report = {k: [v for piece in pieces for v in piece.report[k]] for k in pieces[0].report}
        rows = []
        for k, (record, prompt) in enumerate(zip(group, prompts, strict=True)):
            some = slice(k * count, (k + 1) * count)
            if record.index not in self.session.results.done:
                rows.append(self.write(record, prompt, latents[some], {n: v[some] for n, v in report.items()}))
        self.session.add_rows(rows)

    def write(self, record, prompt, latents, row):
        """Save one prompt's images; returns its row."""
        images = self.pipe.decode(latents)
        if self.session.wants_images:
            self.session.save_images(record, images)
        if "choice" in row:
            row["prompts_chosen"] = [[prompt, *self.alternatives(record)][c] for c in row["choice"]]
        row["unet_evals_per_image"] = float(np.mean(row.pop("unet_evals")))
        if self.masks is not None and record.index in self.masks.evals:
            row["mask_evals_per_image"] = self.masks.evals[record.index]
        head = {
            "index": record.index, "prompt": record.prompt, "prompt_used": prompt, "kind": record.kind,
            "method": self.method, "seeds": self.session.seeds(record),
        }  # fmt: skip
        if record.reference_images:
            row["pixel_similarity"] = similarity_to_references(images, record)
        means = {f"mean_{k}": float(np.mean(row[k])) for k in MEASURES if k in row}
        return head | row | means

    def alternatives(self, record):
        return record.alternatives if self.args.l_target_ss is not None else ()

    def perturbed_prompt(self, record):
        style = self.args.prompt_aug_style
        if style is None:
            return record.prompt
        seed = self.session.seeds(record)[0]
        return augment_prompt(record.prompt, style, self.args.repeat_num, seed, self.session.random_words)

    def evaluate(self):
        """Measure all images, keep the numbers beside the rows, log and print their means."""
        if self.evaluators.descriptor is None and self.evaluators.clip is None:
            return None
        path = self.session.results.path.with_suffix(".similarity.jsonl")
        if self.session.images_are_kept():
            records = {r.index: r for r in self.session.records}
            run = read_run(self.session.results.path)
            measured = measure_run(run, [r for r in run.rows if r["index"] in records], self.evaluators, records)
            write_text(path, "".join(json.dumps(plain(m)) + "\n" for m in measured))
            means = {n: float(np.mean([np.mean(m[n]) for m in measured])) for n in SIMILARITIES if n in measured[0]}
            means = {n: v for n, v in means.items() if np.isfinite(v)}
            self.session.track({f"mean_{n}": v for n, v in means.items()})
            print(format_table([SIMILARITIES[n] for n in means], [list(means.values())]))
            print(self.evaluators.describe())
        return path

    def finish(self):
        """Print the table and give the images of this method the documented name as well."""
        if not self.session.finish_rows():
            return
        if self.masks is not None:
            self.masks.finish()
        similarity = self.evaluate()
        folder = self.args.output_dir / "images_data"
        npz = self.session.finish_images(folder / f"{run_key(self.args)}_generated_images.npz")
        files = [self.session.results.path, similarity, npz]
        if npz is not None and npz.exists():
            files.append(replace_link(npz, folder / f"{self.args.run_name}_generated_images.npz"))
        if self.masks is not None:
            files.append(self.masks.path)
        print(summary(self.method, self.session.rows()))
        print("\n".join(str(f) for f in files if f))
        if self.args.store_img_png:
            print(self.session.images)


def read_embeddings(path, session):
    """Prompt embeddings by index, each (tokens, dim).

    Raises:
        InputError: if the file cannot be read, lacks a prompt, or is of another model.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; examples/search_embeddings.py writes such a file") from error
    shape = session.pipe.encode([""])[0].shape[1:]
    for record in session.records:
        if str(record.index) not in found or found[str(record.index)].shape != shape:
            raise InputError(f"{path} has no embedding of prompt {record.index} for this model; search again")
    return {r.index: found[str(r.index)] for r in session.records}


def summary(method, rows):
    """Markdown table, one line per kind of prompt: what the mitigation did to magnitude and similarity.

    Args:
        rows: an iterable, read once; kept are a few numbers an image.
    """
    wanted = ("kind", "triggered", "unet_evals_per_image", *MEASURES)
    rows = [{k: row[k] for k in wanted if k in row} for row in rows]
    kinds = sorted({row["kind"] for row in rows if row["kind"]})
    measures = [m for m in MEASURES if all(m in row for row in rows)]
    table = []
    for kind in [*kinds, None] if len(kinds) != 1 else kinds:
        some = [row for row in rows if kind is None or row["kind"] == kind]
        triggered = [t for row in some for t in row["triggered"]]
        means = [float(np.mean([v for row in some for v in row[m]])) for m in measures]
        evals = float(np.mean([row["unet_evals_per_image"] for row in some]))
        table.append([kind or "all", *means, f"{sum(triggered)} of {len(triggered)}", evals])
    headers = ["prompts", *(m.replace("_", " ") for m in measures), "triggered", "UNet evaluations per image"]
    return f"method {method}\n{format_table(headers, table)}"


def main(argv=None):
    args = inference_parser(__doc__).parse_args(argv)
    with exit_on_input_error():
        check_inference_args(args)
        with Processes(args.device) as processes:
            rows_name = f"{run_key(args)}_mitigation"
            with Session(args, processes, run_key(args), rows_name, METHOD_SETTINGS, COLUMNS) as session:
                mitigation = Mitigation(args, session)
                mitigation.run()
                mitigation.finish()


if __name__ == "__main__":
    main()
