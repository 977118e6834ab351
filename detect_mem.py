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

from attn_utils import cross_attention_layers
from cli_args import check_detect_args, detect_parser
from detectors import signal_of
from eval_detection import HORIZONS, NAMES, SCORES, horizon_text, horizons_of, image_scores
from eval_utils import rank_auc
from generation import observe
from map_files import DIFF_MAPS, maps_path, save_maps
from mask_files import MaskStore, is_original_layout, load_original_layout, save_whole_tokens
from mask_parts import MaskParts
from metrics import norms_from_maps, shuffle_mask
from processes import Processes
from result_files import score_names
from run_utils import InputError, exit_on_input_error, format_table, input_errors, replacing, write_text
from session import Session, chunked
from signals import Signals
from thresholds import Threshold

# Scores of the rows by --run_version; the end token's attention is read off in both.
ROW_SCORES = {"baseline": ("text_noise_norm", "end_token_attention"), "ours": tuple(SCORES.values())}
SETTINGS = ("run_version", "attn_scores", "early_exit", "scores", "calibration")
COLUMNS = ("kind", "is_memorized", "text_noise_norm")


def run_key(args):
    return f"{args.run_name}_{args.run_version}"


class Detection:
    """Scores groups of prompts from one generation each and writes what came of it."""

    def __init__(self, args, session):
        self.args, self.session = args, session
        self.threshold = Threshold.load(args.threshold_file) if args.threshold_file else None
        self.check_threshold()
        # What ends early has no last step to read attention at.
        self.layers = session.layers if args.early_exit is None else ()
        self.map_layers = cross_attention_layers(session.pipe.unet) if args.store_maps else ()
        self.signals = Signals(args, session.pipe)
        self.stored_masks = self.read_masks() if args.attn_scores else None
        self.parts = MaskParts(session.attention / f"{run_key(args)}_parts", session.mask_settings)
        self.refuse_missing_maps()
        if args.overwrite and session.processes.is_main:
            for folder in (self.parts.folder, maps_path(args.output_dir, run_key(args), 0).parent):
                shutil.rmtree(folder, ignore_errors=True)

    def refuse_missing_maps(self):
        """Rows that an earlier call made without --store_maps cannot get their maps now."""
        for index in self.session.results.done if self.args.store_maps else ():
            path = maps_path(self.args.output_dir, run_key(self.args), index)
            if not path.exists():
                raise InputError(f"{path} is missing although its row is finished; rerun with --overwrite")

    def check_threshold(self):
        """Refuse a threshold of another model, or on a score that this run will not have."""
        if self.threshold is None:
            return
        self.threshold.refuse_other_settings(self.session.results.settings, self.args.threshold_file)
        if self.threshold.key not in ROW_SCORES[self.args.run_version]:
            name, version = NAMES.get(self.threshold.key, self.threshold.key), self.args.run_version
            raise InputError(f"{self.args.threshold_file} is for {name}, which --run_version {version} does not give")

    def read_masks(self):
        """Masks of an earlier pass, a function from record to (images, 1, height, width)."""
        session, path = self.session, self.args.attn_scores
        remedy = "give the file that was made with these settings, or none for a single pass"
        with input_errors():
            if is_original_layout(path):
                ends = [session.pipe.end_token(r.prompt) for r in session.records]
                images = self.args.num_images_per_prompt
                masks = load_original_layout(path, ends, images, self.args.start)
                places = {r.index: k for k, r in enumerate(session.records)}
                return lambda record: masks[places[record.index]]
            store = MaskStore.load(path, session.mask_settings, session.records, remedy)
        for record in session.records:
            if not store.has(record.index, session.seeds(record)):
                raise InputError(f"{path} has no mask of prompt {record.index} at this run's seeds; {remedy}")
        return lambda record: store.get(record.index, session.seeds(record))

    def run(self):
        self.session.run_groups("detect", self.run_group)

    def run_group(self, group):
        """Generate the images of some prompts in shared UNet calls and hand over what there is to write."""
        session, pipe, count = self.session, self.session.pipe, self.args.num_images_per_prompt
        prompt_embeds, negative = pipe.encode([r.prompt for r in group])
        inputs = {
            "latents": torch.cat([session.latents(r) for r in group]),
            "negative": negative.repeat_interleave(count, 0),
            "text": prompt_embeds.repeat_interleave(count, 0),
            "tokens": torch.cat([session.end_tokens(r) for r in group]),
            "seeds": torch.tensor([seed for r in group for seed in session.seeds(r)]),
        }
        before = pipe.num_unet_evals
        pieces = [self.observe_chunk(**chunk) for chunk in chunked(inputs, self.args.batch_size)]
        evals = (pipe.num_unet_evals - before) // len(inputs["latents"])
        session.writer.submit(self.write_group, group, pieces, evals)

    def observe_chunk(self, latents, negative, text, tokens, seeds):
        """What one generation leaves, a dict of tensors with a row an image; nothing here waits for the device."""
        trace = self.signals.trace((negative, text), tokens, seeds.tolist())
        observed = observe(
            self.session.pipe, latents, (negative, text), tokens,
            layers=self.layers, all_tokens=self.args.store_all_tokens, map_layers=self.map_layers,
            num_inference_steps=self.args.num_inference_steps, guidance=self.session.guidance,
            stop_after=self.args.early_exit, trace=trace,
        )  # fmt: skip
        piece = {"maps": observed.diff_maps.transpose(0, 1), "uncond": observed.uncond_norms}
        if observed.mask is not None:
            piece["mask"] = observed.mask
        if self.session.wants_images or self.signals.compares_images:
            piece["latents"] = observed.latents
        if trace is not None:
            piece |= self.signals.measure(trace)
        if observed.attention:
            piece["attention"] = torch.stack([a.half() for a in observed.attention.values()], 1)
        for layer, (end, padding) in observed.columns.items():
            piece |= {f"end.{layer}": end, f"padding.{layer}": padding}
        return piece

    def write_group(self, group, pieces, evals):
        """Images, masks and maps first and the rows last: a row says that everything of its prompt is there."""
        whole = {k: torch.cat([p[k] for p in pieces]) for k in pieces[0]}
        rows = []
        for record, observed in zip(group, chunked(whole, self.args.num_images_per_prompt), strict=True):
            if record.index not in self.session.results.done:
                images = self.session.pipe.decode(observed["latents"]) if "latents" in observed else None
                self.write_files(record, observed, images, evals)
                rows.append(self.make_row(record, observed, images, evals))
        self.session.add_rows(rows)

    def write_files(self, record, observed, images, evals):
        session = self.session
        if session.wants_images:
            session.save_images(record, images)
        if self.args.store_attn_npz:
            self.parts.folder.mkdir(exist_ok=True)
            if "attention" in observed:
                with replacing(self.whole_part(record)) as temporary, temporary.open("wb") as file:
                    np.save(file, observed["attention"].transpose(0, 1).cpu().numpy())
            else:
                self.parts.add(record.index, record.prompt, session.seeds(record), observed["mask"], evals)
        if self.args.store_maps:
            columns = {k: v.cpu().numpy() for k, v in observed.items() if k.startswith(("end.", "padding.", "map."))}
            path = maps_path(self.args.output_dir, run_key(self.args), record.index)
            save_maps(path, {DIFF_MAPS: observed["maps"].cpu().numpy(), **columns})

    def whole_part(self, record):
        return self.parts.folder / f"{record.index}.npy"

    def make_row(self, record, observed, images, evals):
        seeds, maps, mask = self.session.seeds(record), observed["maps"].transpose(0, 1), observed.get("mask")
        norms = {"text_noise_norm": norms_from_maps(maps)}
        if self.args.run_version == "ours":
            used = mask if self.stored_masks is None else self.stored_masks(record).to(maps.device)
            with input_errors():
                norms["text_noise_norm_masked"] = norms_from_maps(maps, used)
                norms["text_noise_norm_shuffled"] = norms_from_maps(maps, shuffle_mask(used, seeds))
                norms["text_noise_norm_rms"] = norms_from_maps(maps, used, "rms")
        norms = {k: v.cpu() for k, v in norms.items()}
        scores = {k.removeprefix("score."): v for k, v in observed.items() if k.startswith("score.")}
        scores |= self.signals.of_images(images)
        costs = {"score_costs": self.signals.costs()} if self.signals.measured else {}
        attention = {} if mask is None else {"end_token_attention": mask.mean((1, 2, 3)).tolist()}
        return {
            "index": record.index, "prompt": record.prompt, "seeds": seeds,
            "is_memorized": record.is_memorized, "kind": record.kind,
            "uncond_noise_norm": observed["uncond"].tolist(), **{k: v.tolist() for k, v in norms.items()},
            **attention, **{k: v.tolist() for k, v in scores.items()}, **costs,
            **{f"mean_{k}": v.mean().item() for k, v in norms.items()}, "unet_evals_per_image": evals,
        }  # fmt: skip

    def finish(self):
        """Gather rows, masks and images of all prompts and print the table."""
        session = self.session
        if not session.finish_rows():
            return
        npz = self.args.output_dir / "images_data" / f"{run_key(self.args)}_generated_images.npz"
        files = [session.results.path, session.finish_images(npz), self.finish_masks(), self.finish_decisions()]
        print(summary(session.rows()))
        print("\n".join(str(f) for f in files if f))
        if self.args.store_img_png:
            print(session.images)

    def finish_masks(self):
        """Gather the prompts' parts into one npz; a part outlives its run, so that a kill loses none."""
        if not self.args.store_attn_npz:
            return None
        session = self.session
        path = session.attention / f"{run_key(self.args)}_attention_scores.npz"
        with input_errors():
            if self.args.store_all_tokens:
                save_whole_tokens(path, [self.whole_part(r) for r in session.records])
            else:
                self.parts.merged(self.parts.path(r.index, session.seeds(r)) for r in session.records).save(path)
        return path

    def finish_decisions(self):
        """Write and print memorized yes or no for every prompt, when there is a threshold."""
        if self.threshold is None:
            return None
        path = self.session.results.path.with_suffix(".decisions.jsonl")
        lines = [
            {"index": r["index"], "prompt": r["prompt"], "score": score, "threshold": self.threshold.threshold,
             "memorized": above}
            for r, (score, above) in ((row, self.threshold.decide(row)) for row in self.session.rows())
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
    """Markdown table: mean of each score per class and, with labels, AUC per image and per prompt.

    Args:
        rows: an iterable, read once; kept are a few numbers an image.
    """
    labels, scores, costs = [], {}, {}
    for row in rows:
        labels.append(row["is_memorized"])
        costs = row.get("score_costs", {})
        found = score_names(row)
        for key in [*(k for k in NAMES if k in found), *(k for k in found if k not in NAMES)]:
            for horizon in horizons_of(row, key, HORIZONS):
                scores.setdefault((key, horizon), []).append(image_scores(row, key, horizon))
    memorized = [k for k, label in enumerate(labels) if label]
    others = [k for k, label in enumerate(labels) if not label]
    with_auc = None not in labels and bool(memorized) and bool(others)
    headers = ["memorized", "not memorized", "AUC per image", "AUC per prompt"] if with_auc else ["mean"]
    table = []
    for (key, horizon), values in scores.items():
        head = [NAMES.get(key, key), horizon_text(key, horizon)]
        numbers = class_columns(values, memorized, others) if with_auc else [float(np.mean([x.mean() for x in values]))]
        table.append([*head, *numbers, *(cost_of(key, costs) if costs else ())])
    counts = f"{len(memorized)} memorized and {len(others)} other prompts" if with_auc else f"{len(labels)} prompts"
    headers = ["score", "T", *headers, *(("extra evaluations", "gradients") if costs else ())]
    return f"{format_table(headers, table)}\n{counts}; higher = memorized"


def class_columns(values, memorized, others):
    """Means of both classes and AUC per image and per prompt, of one array of image scores a prompt."""
    a, b = ([values[k] for k in group] for group in (memorized, others))
    per_prompt = rank_auc([x.mean() for x in a], [x.mean() for x in b])
    a, b = np.concatenate(a), np.concatenate(b)
    return [float(a.mean()), float(b.mean()), rank_auc(a, b), per_prompt]


def cost_of(key, costs):
    """Evaluations and gradients an image of the signal that a row key belongs to; 0 where it only looks."""
    return costs.get(signal_of(key), (0, 0))


def main(argv=None):
    args = detect_parser(__doc__).parse_args(argv)
    with exit_on_input_error():
        check_detect_args(args)
        with Processes(args.device) as processes:
            with Session(args, processes, run_key(args), run_key(args), SETTINGS, COLUMNS) as session:
                detection = Detection(args, session)
                detection.run()
                detection.finish()


if __name__ == "__main__":
    main()
