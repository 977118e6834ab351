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
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from memorization.bundled import PLANTED
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.files.embeddings import read_embeddings
from memorization.files.whole import replace_link, write_text
from memorization.finished_runs import read_run
from memorization.mitigations.base import ImageBatch
from memorization.mitigations.options import FLAGS_OF, MitigationOptions, apply_method, method_name, uses_masks
from memorization.mitigations.perturb import AUGMENTATIONS, augment_prompt
from memorization.mitigations.prompt_search import mitigate
from memorization.mitigations.registry import METHODS, run_method
from memorization.runs.arguments import (
    Switch,
    image_count,
    make_parser,
    natural_float,
    natural_int,
    positive_float,
    positive_int,
    word_count,
)
from memorization.runs.masks import RunMasks
from memorization.runs.session import Session
from memorization.runs.workers import Processes
from memorization.similarity.descriptors import ClipSimilarity, CopyDescriptor
from memorization.similarity.measure import MEASURES as SIMILARITIES
from memorization.similarity.measure import Evaluators, add_evaluators, measure_run
from memorization.similarity.pixels import similarity_to_references
from memorization.tables import format_table, plain


def inference_parser(description):
    parser = make_parser(description)
    parser.set_defaults(dataset=str(PLANTED / "planted_mem_groundtruth"))
    parser.add_argument("--num_images_per_prompt", type=image_count, default=1)
    group = parser.add_argument_group("mitigation")
    group.add_argument(
        "--run_version", default="baseline", choices=("baseline", "ours_A"),
        help="ours_A: magnitudes are weighted by the bright-ending mask",
    )  # fmt: skip
    group.add_argument(
        "--prompt_embeds", type=Path, help="embeddings by prompt index instead of the prompts', by search_embeddings.py"
    )
    group.add_argument("--method", choices=(*FLAGS_OF, *METHODS), help="mitigation by name, instead of the flags below")
    group.add_argument("--strength", type=natural_float, help="the knob of --method, see the README; 0 switches it off")
    group.add_argument("--attn_scores", type=Path, help="masks for ours_A; default attn_data/mit_attn_scores.npz")
    group.add_argument("--optim_target_steps", type=natural_int, default=0, help="step that is measured; must be 0")
    group.add_argument(
        "--optim_target_loss",
        type=positive_float,
        help="PE, and methods that optimise the noise: down to this magnitude",
    )
    group.add_argument("--optim_lr", type=positive_float, default=0.05)
    group.add_argument("--optim_iters", type=positive_int, default=10)
    group.add_argument("--l_target_ss", type=positive_float, help="SS: search for a prompt at or below this")
    group.add_argument("--l_target_pr", type=positive_float, help="PR: re-anchor above this magnitude")
    group.add_argument("--mag_thres_pr", type=positive_float, help="PR: magnitude of full re-anchoring")
    group.add_argument("--pr_mask", action=Switch, default=False, help="PR only where the mask is bright (ours)")
    group.add_argument("--prompt_aug_style", choices=tuple(AUGMENTATIONS), help="perturb the prompt at random")
    group.add_argument("--repeat_num", type=word_count, default=1, help="words that --prompt_aug_style adds")
    group.add_argument("--rand_noise_lam", type=positive_float, help="GNI: scale of noise on the embedding")
    add_evaluators(parser.add_argument_group("evaluation at the end of a run, with --with_tracking"))
    return parser


def check_inference_args(args):
    """Refuse combinations that mean nothing, after --method was turned into flags.

    Raises:
        InputError: one line per fault, the first found.
    """
    apply_method(args)
    if args.optim_target_steps != 0:
        raise InputError("--optim_target_steps must be 0: the methods are defined at the first step")
    if (args.l_target_pr is None) != (args.mag_thres_pr is None):
        raise InputError("--l_target_pr and --mag_thres_pr go together")
    if args.l_target_pr is not None and args.mag_thres_pr <= args.l_target_pr:
        raise InputError(f"--mag_thres_pr {args.mag_thres_pr} must exceed --l_target_pr {args.l_target_pr}")
    if args.l_target_pr is not None and args.l_target_ss is None and args.optim_target_loss is None:
        raise InputError("--l_target_pr needs a modified prompt: add --l_target_ss or --optim_target_loss")
    if args.pr_mask and args.l_target_pr is None:
        raise InputError("--pr_mask restricts re-anchoring: add --l_target_pr and --mag_thres_pr")
    perturbed = args.prompt_aug_style is not None or args.rand_noise_lam is not None
    if perturbed and (args.l_target_ss is not None or args.optim_target_loss is not None):
        raise InputError("--prompt_aug_style and --rand_noise_lam do not combine with PE, SS or PR")
    evaluators = args.sscd is not None or args.reference_model is not None
    if evaluators and not args.with_tracking:
        raise InputError("--sscd and --reference_model are used with --with_tracking; eval_mem.py measures later")
    if evaluators and not args.store_img_png and not args.store_img_npz:
        raise InputError("--sscd and --reference_model need the images: leave --store_img_png on")
    if args.prompt_embeds is not None and (args.prompt_aug_style is not None or args.method == "padding_fix"):
        name = args.method or f"--prompt_aug_style {args.prompt_aug_style}"
        raise InputError(f"{name} changes the words of a prompt, which --prompt_embeds takes the place of")
    if args.attn_scores is not None and not uses_masks(args):
        raise InputError("--attn_scores is not used here: add --run_version ours_A with PE or SS, or --pr_mask")


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
