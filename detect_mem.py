"""Detect memorized prompts: one pass gives D, LD, LD's two controls and the bright-ending masks.

    python detect_mem.py
    python detect_mem.py --dataset prompts.jsonl --model_id CompVis/stable-diffusion-v1-4

Rows go to det_outputs/, masks to attn_data/, images to images_data/. The same command after an
interruption goes on where it stopped.
"""

import json
import shutil

import numpy as np
import torch
from tqdm import tqdm

from attn_utils import cross_attention_layers
from cli_args import detect_parser
from eval_detection import HORIZONS, NAMES, horizons_of, image_scores
from eval_utils import rank_auc
from generation import observe
from map_files import DIFF_MAPS, maps_path, save_maps
from mask_files import MaskStore, is_original_layout, load_original_layout, save_whole_tokens
from metrics import norms_from_maps, shuffle_mask
from run_utils import InputError, exit_on_input_error, format_table, input_errors, write_text
from session import Session, chunked
from thresholds import Threshold

# Scores of the rows by --run_version; the end token's attention is read off in both.
ROW_SCORES = {"baseline": ("text_noise_norm", "end_token_attention"), "ours": tuple(NAMES)}


class Detection:
    """Scores a group of prompts from one generation each and writes what came of it."""

    def __init__(self, args):
        self.args = args
        self.threshold = Threshold.load(args.threshold_file) if args.threshold_file else None
        self.session = Session(args, self.key(args), self.key(args), ("run_version", "attn_scores"))
        self.check_threshold()
        self.map_layers = cross_attention_layers(self.session.pipe.unet) if args.store_maps else ()
        self.stored_masks = self.read_masks() if args.attn_scores else None
        self.parts = self.session.attention / f"{self.key(args)}_parts"
        if args.overwrite:
            for folder in (self.parts, maps_path(args.output_dir, self.key(args), 0).parent):
                shutil.rmtree(folder, ignore_errors=True)
        self.refuse_missing_maps()

    @staticmethod
    def key(args):
        return f"{args.run_name}_{args.run_version}"

    def refuse_missing_maps(self):
        """Rows that an earlier call made without --store_maps cannot get their maps now."""
        for index in self.session.results.done if self.args.store_maps else ():
            path = maps_path(self.args.output_dir, self.key(self.args), index)
            if not path.exists():
                raise InputError(f"{path} is missing although its row is finished; rerun with --overwrite")

    def check_threshold(self):
        """Refuse a threshold of another model, or on a score that this run will not have."""
        if self.threshold is None:
            return
        self.threshold.refuse_other_settings(self.session.results.settings, self.args.threshold_file)
        if self.threshold.key not in ROW_SCORES[self.args.run_version]:
            name = NAMES.get(self.threshold.key, self.threshold.key)
            raise InputError(f"{self.args.threshold_file} is for {name}, which --run_version baseline does not give")

    def read_masks(self):
        """Masks of an earlier pass by prompt index, (images, 1, height, width)."""
        session, path = self.session, self.args.attn_scores
        remedy = "give the file that was made with these settings, or none for a single pass"
        with input_errors():
            if is_original_layout(path):
                ends = [session.pipe.end_token(r.prompt) for r in session.records]
                images = self.args.num_images_per_prompt
                masks = load_original_layout(path, ends, images, self.args.start)
                return {r.index: m for r, m in zip(session.records, masks, strict=True)}
            store = MaskStore.load(path, session.mask_settings, session.records, remedy)
        for record in session.records:
            if not store.has(record.index, session.seeds(record)):
                raise InputError(f"{path} has no mask of prompt {record.index} at this run's seeds; {remedy}")
        return {r.index: store.get(r.index, session.seeds(r)) for r in session.records}

    def run(self):
        session = self.session
        done = len(session.records) - len(session.todo)
        with tqdm(total=len(session.records), initial=done, desc="detect", unit="prompt") as bar:
            for group in session.groups():
                for record, observed in zip(group, self.observe_group(group), strict=True):
                    self.write(record, observed)
                    bar.update()

    def observe_group(self, group):
        """One observation dict per prompt, made in shared UNet calls of at most --batch_size images."""
        session, pipe, count = self.session, self.session.pipe, self.args.num_images_per_prompt
        prompt_embeds, negative = pipe.encode([r.prompt for r in group])
        inputs = {
            "latents": torch.cat([session.latents(r) for r in group]),
            "negative": negative.repeat_interleave(count, 0),
            "text": prompt_embeds.repeat_interleave(count, 0),
            "tokens": torch.cat([session.end_tokens(r) for r in group]),
        }
        before = pipe.num_unet_evals
        pieces = [self.observe_chunk(**chunk) for chunk in chunked(inputs, self.args.batch_size)]
        evals = (pipe.num_unet_evals - before) // len(inputs["latents"])
        whole = {k: torch.cat([p[k] for p in pieces]) for k in pieces[0]}
        return [chunk | {"evals": evals} for chunk in chunked(whole, count)]

    def observe_chunk(self, latents, negative, text, tokens):
        observed = observe(
            self.session.pipe, latents, (negative, text), tokens,
            layers=self.session.layers, all_tokens=self.args.store_all_tokens, map_layers=self.map_layers,
            num_inference_steps=self.args.num_inference_steps, guidance=self.session.guidance,
        )  # fmt: skip
        piece = {
            "maps": observed.diff_maps.transpose(0, 1),
            "uncond": observed.uncond_norms,
            "mask": observed.mask,
        }
        if self.session.wants_images:
            piece["images"] = torch.from_numpy(self.session.pipe.decode(observed.latents))
        if observed.attention:
            piece["attention"] = torch.stack([a.half().cpu() for a in observed.attention.values()], 1)
        for layer, (end, padding) in observed.columns.items():
            piece |= {f"end.{layer}": end, f"padding.{layer}": padding}
        return piece

    def write(self, record, observed):
        """Images and masks first and the row last: a row says that everything of its prompt is there."""
        session = self.session
        if session.wants_images:
            session.save_images(record, observed["images"].numpy())
        if self.args.store_attn_npz:
            self.parts.mkdir(exist_ok=True)
            array = observed["attention"].transpose(0, 1) if "attention" in observed else observed["mask"].cpu()
            np.save(self.parts / f"{record.index}.npy", array.numpy())
        if self.args.store_maps:
            columns = {k: v.cpu().numpy() for k, v in observed.items() if k.startswith(("end.", "padding."))}
            path = maps_path(self.args.output_dir, self.key(self.args), record.index)
            save_maps(path, {DIFF_MAPS: observed["maps"].cpu().numpy(), **columns})
        session.add_row(self.make_row(record, observed))

    def make_row(self, record, observed):
        seeds = self.session.seeds(record)
        maps = observed["maps"].transpose(0, 1)
        mask = observed["mask"] if self.stored_masks is None else self.stored_masks[record.index].to(maps.device)
        norms = {"text_noise_norm": norms_from_maps(maps)}
        if self.args.run_version == "ours":
            with input_errors():
                norms["text_noise_norm_masked"] = norms_from_maps(maps, mask)
                norms["text_noise_norm_shuffled"] = norms_from_maps(maps, shuffle_mask(mask, seeds))
                norms["text_noise_norm_rms"] = norms_from_maps(maps, mask, "rms")
        means = {f"mean_{k}": v.mean().item() for k, v in norms.items()}
        return {
            "index": record.index, "prompt": record.prompt, "seeds": seeds,
            "is_memorized": record.is_memorized, "kind": record.kind,
            "uncond_noise_norm": observed["uncond"].tolist(), **{k: v.tolist() for k, v in norms.items()},
            "end_token_attention": observed["mask"].mean((1, 2, 3)).tolist(),
            **means, "unet_evals_per_image": observed["evals"],
        }  # fmt: skip

    def finish(self):
        """Gather masks and images of all prompts and print the table."""
        session = self.session
        npz = self.args.output_dir / "images_data" / f"{self.key(self.args)}_generated_images.npz"
        files = [session.results.path, session.finish_images(npz), self.finish_masks(), self.finish_decisions()]
        print(summary(session.rows()))
        print("\n".join(str(f) for f in files if f))
        if self.args.store_img_png:
            print(session.images)
        session.close()

    def finish_masks(self):
        """Gather the prompts' parts into one npz; a part outlives its run, so that a kill loses none."""
        if not self.args.store_attn_npz:
            return None
        session = self.session
        path = session.attention / f"{self.key(self.args)}_attention_scores.npz"
        parts = [self.parts / f"{r.index}.npy" for r in session.records]
        if self.args.store_all_tokens:
            save_whole_tokens(path, parts)
            return path
        store = MaskStore(session.mask_settings)
        for record, part, row in zip(session.records, parts, session.rows(), strict=True):
            masks, evals = torch.from_numpy(np.load(part)), row["unet_evals_per_image"]
            store.add(record.index, record.prompt, session.seeds(record), masks, evals)
        store.save(path)
        return path

    def finish_decisions(self):
        """Write and print memorized yes or no for every prompt, when there is a threshold."""
        if self.threshold is None:
            return None
        path = self.session.results.path.with_suffix(".decisions.jsonl")
        rows = self.session.rows()
        decided = [self.threshold.decide(row) for row in rows]
        lines = [
            {"index": r["index"], "prompt": r["prompt"], "score": score, "threshold": self.threshold.threshold,
             "memorized": above}
            for r, (score, above) in zip(rows, decided, strict=True)
        ]  # fmt: skip
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        print(decision_table(lines, self.threshold))
        return path


def decision_table(lines, threshold):
    """Markdown table of all prompts' decisions, the highest score first."""
    rows = [
        [line["index"], "yes" if line["memorized"] else "no", line["score"], line["prompt"][:60]]
        for line in sorted(lines, key=lambda line: -line["score"])
    ]
    flagged = sum(line["memorized"] for line in lines)
    name = NAMES.get(threshold.key, threshold.key)
    told = f"threshold {threshold.threshold:.3f} on {name} of T={threshold.T or 'all'}"
    calibrated = f"calibrated for {threshold.fpr:.1%} false positives on {threshold.num_negatives} prompts "
    calibrated += f"of {threshold.num_images} images each"
    table = format_table(["index", "memorized", "score", "prompt"], rows)
    return f"{table}\n{flagged} of {len(lines)} prompts above the {told}, {calibrated}"


def summary(rows):
    """Markdown table: mean of each score per class and, with labels, AUC per image and per prompt."""
    labelled = all(row["is_memorized"] is not None for row in rows)
    memorized = [r for r in rows if r["is_memorized"]] if labelled else []
    others = [r for r in rows if not r["is_memorized"]]
    with_auc = bool(memorized) and bool(others)
    headers = ["score", "T", "memorized", "not memorized", "AUC per image", "AUC per prompt"]
    if not with_auc:
        headers = ["score", "T", "mean"]
    table = []
    for key in ROW_SCORES["ours"]:
        for horizon in horizons_of(rows[0], key, HORIZONS) if key in rows[0] else ():
            label = "all" if horizon is None else horizon
            if with_auc:
                a, b = ([image_scores(r, key, horizon) for r in group] for group in (memorized, others))
                per_prompt = rank_auc([x.mean() for x in a], [x.mean() for x in b])
                a, b = np.concatenate(a), np.concatenate(b)
                table.append([NAMES[key], label, float(a.mean()), float(b.mean()), rank_auc(a, b), per_prompt])
            else:
                table.append([NAMES[key], label, float(np.mean([image_scores(r, key, horizon) for r in rows]))])
    counts = f"{len(memorized)} memorized and {len(others)} other prompts" if with_auc else f"{len(rows)} prompts"
    return f"{format_table(headers, table)}\n{counts}; higher = memorized"


def main(argv=None):
    args = detect_parser(__doc__).parse_args(argv)
    with exit_on_input_error():
        if args.attn_scores is not None and args.run_version == "baseline":
            raise InputError("--attn_scores is not used by --run_version baseline: add --run_version ours")
        detection = Detection(args)
        detection.run()
        detection.finish()


if __name__ == "__main__":
    main()
