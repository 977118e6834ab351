"""Generate with or without mitigation: PE, SS, PR and their combinations, or random perturbation.

    python inference_mem.py                                     plain generation
    python inference_mem.py --optim_target_loss 1               PE
    python inference_mem.py --l_target_ss 1 --l_target_pr 3 --mag_thres_pr 5        PRSS
    python inference_mem.py --run_version ours_A ...            the same with bright-ending masks

Rows go to det_outputs/, images to images_data/, both under the run name and the method, so that runs of
one name do not overwrite one another. The same command after an interruption goes on where it stopped.
"""

import json

import numpy as np
import torch
from tqdm import tqdm

from cli_args import check_inference_args, inference_parser, method_name, uses_masks
from eval_mitigation import MEASURES as SIMILARITIES
from eval_mitigation import Evaluators, measure_run
from generation import observe
from mask_files import MaskStore, is_original_layout, load_original_layout
from mitigation import MitigationOptions, mitigate
from prompt_aug import augment_prompt
from result_files import read_run
from run_utils import InputError, exit_on_input_error, format_table, input_errors, replace_link, write_text
from session import Session, chunked
from similarity import ClipSimilarity, CopyDescriptor, similarity_to_references

METHOD_SETTINGS = (
    "run_version", "optim_target_loss", "optim_lr", "optim_iters", "l_target_ss", "l_target_pr", "mag_thres_pr",
    "pr_mask", "prompt_aug_style", "repeat_num", "rand_noise_lam", "attn_scores",
)  # fmt: skip
SAVE_MASKS_EVERY = 25  # prompts; every save writes the whole file
MEASURES = ("magnitude_before", "magnitude_after", "pixel_similarity")


class Mitigation:
    """Generates prompt by prompt; every decision is made per image."""

    def __init__(self, args):
        self.args = args
        self.method = method_name(args)
        key = f"{args.run_name}_{self.method}"
        self.session = Session(args, key, f"{key}_mitigation", METHOD_SETTINGS)
        self.pipe = self.session.pipe
        self.needs_masks = uses_masks(args)
        self.mask_path = args.attn_scores or self.session.attention / "mit_attn_scores.npz"
        self.positional_masks, self.masks, self.made_masks = {}, MaskStore(self.session.mask_settings), 0
        self.options = MitigationOptions.from_args(args)
        self.evaluators = self.open_evaluators()
        if self.needs_masks:
            self.open_masks()

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

    def open_masks(self):
        """Read --attn_scores, or the file that earlier runs left; refuse masks of anything else."""
        session, explicit = self.session, self.args.attn_scores is not None
        if not explicit and not self.mask_path.exists():
            return
        remedy = "move the file away, or give another by --attn_scores"
        with input_errors():
            if is_original_layout(self.mask_path):
                ends = [self.pipe.end_token(r.prompt) for r in session.records]
                count, start = self.args.num_images_per_prompt, self.args.start
                masks = load_original_layout(self.mask_path, ends, count, start)
                self.positional_masks = {r.index: m for r, m in zip(session.records, masks, strict=True)}
                return
            self.masks = MaskStore.load(self.mask_path, session.mask_settings, session.records, remedy)
        for record in session.records if explicit else ():
            if not self.masks.has(record.index, session.seeds(record)):
                raise InputError(f"{self.mask_path} has no mask of prompt {record.index} at this run's seeds; {remedy}")

    def run(self):
        session = self.session
        done = len(session.records) - len(session.todo)
        bar = tqdm(session.todo, total=len(session.records), initial=done, desc=self.method, unit="prompt")
        try:
            for count, record in enumerate(bar, 1):
                self.run_prompt(record)
                if count % SAVE_MASKS_EVERY == 0:
                    self.save_masks()
        finally:
            self.save_masks()

    def save_masks(self):
        """Keep the masks made so far for other runs; one that a kill loses is made again when needed."""
        if self.made_masks:
            self.masks.save(self.mask_path)
            self.made_masks = 0

    def run_prompt(self, record):
        """One prompt from its noise to its row, in chunks of at most --batch_size images."""
        session = self.session
        prompt = self.perturbed_prompt(record)
        candidates, negative = self.pipe.encode([prompt, *self.alternatives(record)])
        inputs = {"latents": session.latents(record), "seeds": torch.tensor(session.seeds(record))}
        if self.needs_masks:
            inputs["mask"] = self.masks_of(record, candidates[:1], negative[:1]).to(self.pipe.device)
        before = self.pipe.num_unet_evals
        pieces = [
            mitigate(self.pipe, self.options, candidates, negative[:1], **chunk)
            for chunk in chunked(inputs, self.args.batch_size)
        ]
        row = {k: [v for piece in pieces for v in piece.report[k]] for k in pieces[0].report}
        if "choice" in row:
            row["prompts_chosen"] = [[prompt, *self.alternatives(record)][c] for c in row["choice"]]
        row["unet_evals_per_image"] = (self.pipe.num_unet_evals - before) / len(inputs["latents"])
        if record.index in self.masks.evals:
            row["mask_evals_per_image"] = self.masks.evals[record.index]
        images = np.concatenate([self.pipe.decode(piece.latents) for piece in pieces])
        self.write(record, prompt, images, row)

    def write(self, record, prompt, images, row):
        """Images first and the row last: a row says that everything of its prompt is there."""
        if self.session.wants_images:
            self.session.save_images(record, images)
        head = {
            "index": record.index, "prompt": record.prompt, "prompt_used": prompt, "kind": record.kind,
            "method": self.method, "seeds": self.session.seeds(record),
        }  # fmt: skip
        if record.reference_images:
            row["pixel_similarity"] = similarity_to_references(images, record)
        means = {f"mean_{k}": float(np.mean(row[k])) for k in MEASURES if k in row}
        self.session.add_row(head | row | means)

    def alternatives(self, record):
        return record.alternatives if self.args.l_target_ss is not None else ()

    def perturbed_prompt(self, record):
        style = self.args.prompt_aug_style
        if style is None:
            return record.prompt
        seed = self.session.seeds(record)[0]
        return augment_prompt(record.prompt, style, self.args.repeat_num, seed, self.session.random_words)

    def masks_of(self, record, prompt_embeds, negative):
        """Stored masks of this prompt's seeds, or those of an unmitigated generation, which are then stored."""
        session = self.session
        if record.index in self.positional_masks:
            return self.positional_masks[record.index]
        seeds = session.seeds(record)
        if not self.masks.has(record.index, seeds):
            inputs = {"latents": session.latents(record), "tokens": session.end_tokens(record)}
            chunks = chunked(inputs, self.args.batch_size)
            before = self.pipe.num_unet_evals
            masks = [self.unmitigated_mask(c["latents"], c["tokens"], prompt_embeds, negative) for c in chunks]
            evals = (self.pipe.num_unet_evals - before) / len(seeds)
            self.masks.add(record.index, record.prompt, seeds, torch.cat(masks), evals)
            self.made_masks += 1
        return self.masks.get(record.index, seeds)

    def unmitigated_mask(self, latents, tokens, prompt_embeds, negative):
        embeds = (e.expand(len(latents), -1, -1) for e in (negative, prompt_embeds))
        return observe(
            self.pipe, latents, tuple(embeds), tokens, layers=self.session.layers,
            num_inference_steps=self.args.num_inference_steps, guidance=self.session.guidance,
        ).mask  # fmt: skip

    def evaluate(self):
        """Measure all images, keep the numbers beside the rows, log and print their means."""
        if self.evaluators.descriptor is None and self.evaluators.clip is None:
            return None
        path = self.session.results.path.with_suffix(".similarity.jsonl")
        if self.session.images_are_kept():
            records = {r.index: r for r in self.session.records}
            run = read_run(self.session.results.path)
            measured = measure_run(run, [r for r in run.rows if r["index"] in records], self.evaluators, records)
            write_text(path, "".join(json.dumps(m) + "\n" for m in measured))
            means = {n: float(np.mean([np.mean(m[n]) for m in measured])) for n in SIMILARITIES if n in measured[0]}
            means = {n: v for n, v in means.items() if np.isfinite(v)}
            self.session.track({f"mean_{n}": v for n, v in means.items()})
            print(format_table([SIMILARITIES[n] for n in means], [list(means.values())]))
            print(self.evaluators.describe())
        return path

    def finish(self):
        """Print the table and give the images of this method the documented name as well."""
        similarity = self.evaluate()
        folder = self.args.output_dir / "images_data"
        npz = self.session.finish_images(folder / f"{self.args.run_name}_{self.method}_generated_images.npz")
        files = [self.session.results.path, similarity, npz]
        if npz is not None and npz.exists():
            files.append(replace_link(npz, folder / f"{self.args.run_name}_generated_images.npz"))
        if self.needs_masks:
            files.append(self.mask_path)
        print(summary(self.method, self.session.rows()))
        print("\n".join(str(f) for f in files if f))
        if self.args.store_img_png:
            print(self.session.images)
        self.session.close()


def summary(method, rows):
    """Markdown table, one line per kind of prompt: what the mitigation did to magnitude and similarity."""
    kinds = sorted({row["kind"] for row in rows if row["kind"]})
    measures = [m for m in MEASURES if m in rows[0]]
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
        mitigation = Mitigation(args)
        mitigation.run()
        mitigation.finish()


if __name__ == "__main__":
    main()
