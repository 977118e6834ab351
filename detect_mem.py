"""Detect memorized prompts: one pass gives D, LD, LD's two controls and the bright-ending masks.

    python detect_mem.py
    python detect_mem.py --dataset prompts.jsonl --model_id CompVis/stable-diffusion-v1-4

Rows go to det_outputs/, masks to attn_data/, images to images_data/. The same command after an
interruption goes on where it stopped.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from attn_utils import cross_attention_layers, shuffle_mask
from memorization.bundled import PLANTED
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.evaluation.detection import summary
from memorization.evaluation.thresholds import Threshold, decision_table
from memorization.files.maps import DIFF_MAPS, maps_path, save_maps
from memorization.files.masks import MaskParts, MaskStore
from memorization.files.original_masks import is_original_layout, load_original_layout, save_whole_tokens
from memorization.files.whole import replacing, write_text
from memorization.observation import chunked, observe
from memorization.runs.arguments import Switch, image_count, make_parser, positive_int
from memorization.runs.chosen_detectors import Signals
from memorization.runs.session import Session
from memorization.runs.workers import Processes
from memorization.scores import NAMES, SCORES
from noise_norms import norms_from_maps


def detect_parser(description):
    parser = make_parser(description)
    parser.set_defaults(dataset=str(PLANTED / "planted_prompts.jsonl"))
    parser.add_argument("--num_images_per_prompt", type=image_count, default=4)
    group = parser.add_argument_group("detection")
    group.add_argument(
        "--run_version", default="ours", choices=("baseline", "ours"),
        help="baseline: the global score D; ours: also LD and its two controls",
    )  # fmt: skip
    group.add_argument("--attn_scores", type=Path, help="take the masks from this npz: the original's two passes")
    group.add_argument(
        "--early_exit", type=positive_int, metavar="T",
        help="stop after T steps: D(T) alone, or with --attn_scores LD(T) too; no images, no masks",
    )  # fmt: skip
    group.add_argument("--scores", help="published signals to measure as well: all, or names with commas")
    group.add_argument(
        "--calibration", type=Path, metavar="ROWS", help="run of ordinary prompts that broken_memories is compared with"
    )
    group.add_argument("--store_attn_npz", action=Switch, default=True, help="bright-ending masks as npz")
    group.add_argument(
        "--store_all_tokens", action=Switch, default=False, help="every token's attention, in the original's layout"
    )
    group.add_argument(
        "--store_maps", action=Switch, default=False,
        help="for localisation: noise_diff^2 of every step, end-token and padding attention of every layer",
    )  # fmt: skip
    group.add_argument(
        "--threshold_file", type=Path, help="say memorized yes or no per prompt, by eval_mem.py detection --calibrate"
    )
    return parser


def check_detect_args(args):
    """Refuse combinations that mean nothing; what an early exit cannot give is switched off.

    Raises:
        InputError: one line per fault, the first found.
    """
    if args.attn_scores is not None and args.run_version == "baseline":
        raise InputError("--attn_scores is not used by --run_version baseline: add --run_version ours")
    if args.early_exit is None:
        return
    if args.early_exit > args.num_inference_steps:
        raise InputError(f"--early_exit {args.early_exit} is beyond --num_inference_steps {args.num_inference_steps}")
    if args.run_version == "ours" and args.attn_scores is None:
        raise InputError(
            "--early_exit ends before there is a bright-ending mask: "
            "add --run_version baseline, or masks by --attn_scores"
        )
    if args.store_maps or args.store_all_tokens:
        raise InputError("--store_maps and --store_all_tokens need the last step, which --early_exit leaves out")
    args.store_img_png = args.store_img_npz = args.store_attn_npz = False


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
