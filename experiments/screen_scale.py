"""What a screen of many captions takes, and what noise that all of them share does to the ranking.

    python -m experiments.screen_scale                              all four parts
    python -m experiments.screen_scale --parts scale --counts 1000 100000

scale: peak memory, and the seconds until the first new part after a kill at half of the prompts, of each of `--counts`
prompts on a tiny random model; whether the file is that of a run that was not killed, byte for byte. speed: seconds of
`--screen --seed_mode shared` over those of `--early_exit 1` with every prompt's own noise, on the bundled model, by
turns. noise: AUC of D(1) over n images with shared and with own noise on the bundled prompts, and their difference on
the same prompts. network: seconds of a screen of a model of SD v1.4's shape with random weights, and of its UNet and
text encoder (4 GB of memory). Numbers go to experiments/results/screen.json as they come; `python -m tools.write_docs`
pastes them.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import detect_mem
from experiments.kept import add_result, kept_results
from experiments.planted_tables import table
from experiments.runs import quietly
from experiments.screen_network import measure_network, network_table
from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import MODEL, PLANTED, ROOT
from memorization.evaluation.classes import View, classes_of, gather
from memorization.evaluation.detection_metrics import auc_difference_measure, auc_measure
from memorization.evaluation.statistics import interval_text
from memorization.files.layout import RunFiles
from memorization.models.stable_diffusion import load_pipeline
from memorization.runs.arguments import HelpFormatter, positive_int
from memorization.scores import MAGNITUDE
from memorization.tables import format_table

RESULTS = ROOT / "experiments" / "results" / "screen.json"
SCREEN = {"screen": True, "seed_mode": "shared"}
EARLY = {"early_exit": 1, "run_version": "baseline"}
MEMORIZED, OTHERS = "planted_memorized", ("planted_nonmemorized", "planted_near_miss")
IMAGES = (1, 4, 8)
PARTS = ("scale", "speed", "network", "noise")
MIB = 2**20

Record = dict[str, Any]


# Memory and restart


def save_tiny_model(folder: Path) -> None:
    """Random weights in Stable Diffusion's form, as small as they get: what is measured is all the rest."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=1,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
    )  # fmt: skip
    LocalStableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=DDIMScheduler.from_pretrained(MODEL / "scheduler"), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def write_captions(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for k in range(count):
            file.write(json.dumps({"caption": f"a photo of the red cat number {k} on a wide green hill"}) + "\n")


class ScreenProcess:
    """A screen in a process of its own, one image a prompt, watched from outside."""

    def __init__(self, folder: Path, model: Path, captions: Path, count: int):
        self.files, self.count = RunFiles(folder, "test_screen"), count
        options = ["--screen", "--seed_mode", "shared", "--num_images_per_prompt", "1", "--device", "cpu"]
        paths = ["--output_dir", str(folder), "--model_id", str(model), "--dataset", str(captions)]
        command = [sys.executable, str(ROOT / "detect_mem.py"), *options, *paths]
        self.started, self.before = time.perf_counter(), len(self.parts())
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        self.status, self.peak = 0, 0  # of the end, the latter in bytes of resident memory

    def parts(self) -> list[Path]:
        return list(self.files.column_parts.glob("*.parquet"))

    def wait_for_parts(self, count: int) -> float:
        """Seconds from the start until there are so many more parts, or it has ended."""
        while len(self.parts()) < self.before + count and not self.has_ended(os.WNOHANG):
            time.sleep(0.01)
        return time.perf_counter() - self.started

    def has_ended(self, how: int = 0) -> bool:
        """Whether it has, by default waiting for that; its end can be asked for once, so it is kept."""
        if not self.peak:
            ended, self.status, usage = os.wait4(self.process.pid, how)
            self.peak = 1024 * usage.ru_maxrss if ended else 0
        return bool(self.peak)

    def finish(self) -> bytes:
        """The file of all prompts.

        Raises:
            RuntimeError: if the screen failed.
        """
        self.has_ended()
        if self.status:
            raise RuntimeError(f"a screen of {self.count} prompts ended with {self.status}")
        return self.files.columns.read_bytes()

    def kill(self) -> None:
        if not self.has_ended(os.WNOHANG):
            os.kill(self.process.pid, signal.SIGKILL)
            self.has_ended()


def measure_scale(count: int, work: Path) -> Record:
    """A screen of so many prompts that ends, and one that is killed when half of its parts are there and goes on."""
    model, captions = work / "tiny_model", work / f"{count}.jsonl"
    if not model.exists():
        save_tiny_model(model)
    write_captions(captions, count)
    whole = ScreenProcess(work / f"whole_{count}", model, captions, count)
    first_part = whole.wait_for_parts(1)
    wanted = whole.finish()
    killed = ScreenProcess(work / f"killed_{count}", model, captions, count)
    killed.wait_for_parts(max(1, len(whole.parts()) // 2))
    killed.kill()
    resumed = ScreenProcess(work / f"killed_{count}", model, captions, count)
    finished, after_kill = resumed.before, resumed.wait_for_parts(1)
    found = resumed.finish()
    return {
        "prompts": count,
        "peak": max(whole.peak, resumed.peak),
        "first_part": first_part,
        "first_part_after_kill": after_kill,
        "parts": len(whole.parts()),
        "parts_at_kill": finished,
        "same_bytes": found == wanted,
    }


# Speed


def run_quietly(**options: object) -> Any:
    with quietly():
        return detect_mem.run(**options)


def measure_speed(rounds: int, end: int, work: Path) -> Record:
    """Seconds a prompt of both ways, medians over rounds by turns, at one image a prompt."""
    pipe, seconds, evaluations = load_pipeline(str(MODEL)), {"own": [], "shared": []}, {}
    common = {"pipe": pipe, "output_dir": work / "speed", "num_images_per_prompt": 1, "end": end, "overwrite": True}
    for _ in tqdm(range(rounds), desc="speed", unit="round"):
        for name, options in (("own", EARLY), ("shared", SCREEN)):
            before, started = pipe.num_unet_evals, time.perf_counter()
            run = run_quietly(**common, **options, dataset=str(PLANTED / "planted_ordinary.jsonl"))
            seconds[name].append((time.perf_counter() - started) / len(run.rows))
            evaluations[name] = (pipe.num_unet_evals - before) / len(run.rows)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["own"], seconds["shared"], strict=True))
    return {"prompts": len(run.rows), "rounds": rounds, "seconds": medians, "evaluations": evaluations, "ratio": ratio}


# Noise


def measure_noise(images: Sequence[int], work: Path, gen_seed: int, end: int) -> list[Record]:
    """AUC of the mean D(1) over the first n images with own and with shared noise, and the difference."""
    pipe, runs = load_pipeline(str(MODEL)), {}
    for mode in ("per_image", "shared"):
        for name in tqdm((MEMORIZED, *OTHERS), desc=f"{mode} noise", unit="set"):
            runs[mode, name] = run_quietly(
                pipe=pipe, output_dir=work / f"noise_{mode}", run_name=name, dataset=str(PLANTED / f"{name}.jsonl"),
                seed_mode=mode, num_images_per_prompt=max(images), gen_seed=gen_seed, end=end, **EARLY,
            )  # fmt: skip
    records = []
    for name in OTHERS:
        for n in images:
            own, shared = (
                gather(
                    classes_of([runs[mode, MEMORIZED]], [runs[mode, name]]).pairs()[-1],
                    View(MAGNITUDE, 1, "prompt", n),
                )
                for mode in ("per_image", "shared")
            )
            looked_at = (own.labels, own.prompts)
            records.append(
                {
                    "negative_set": name,
                    "images": n,
                    "prompts": len(own.labels),
                    "own": auc_measure(own.scores, *looked_at),
                    "shared": auc_measure(shared.scores, *looked_at),
                    "difference": auc_difference_measure(shared.scores, own.scores, *looked_at),
                }
            )
    return records


# Tables


def scale_table(results: Record) -> str:
    rows = [
        [
            r["prompts"],
            f"{r['peak'] / MIB:.0f} MiB",
            f"{r['first_part']:.1f}",
            f"{r['first_part_after_kill']:.1f}, of {r['parts_at_kill']} of {r['parts']}",
            "yes" if r["same_bytes"] else "NO",
        ]
        for r in results.get("scale", [])
    ]
    headers = ["prompts", "peak memory", "s to the first part", "after a kill", "same bytes"]
    return format_table(headers, rows) if rows else ""


def speed_table(results: Record) -> str:
    speed = results.get("speed")
    if not speed:
        return ""
    names = {"own": "`--early_exit 1`, own noise", "shared": "`--screen --seed_mode shared`"}
    rows = [[names[n], f"{speed['seconds'][n]:.4f}", f"{speed['evaluations'][n]:.3f}"] for n in names]
    told = f"{speed['prompts']} prompts of one image, medians of {speed['rounds']} rounds: {speed['ratio']:.2f} times"
    return f"{format_table(['bundled model', 'seconds a prompt', 'evaluations an image'], rows)}\n\n{told} the time."


def noise_table(results: Record) -> str:
    rows = [
        [r["negative_set"], r["images"], *(interval_text(r[k]) for k in ("own", "shared", "difference")), r["prompts"]]
        for r in results.get("noise", [])
    ]
    headers = ["AUC of D(1), memorized against", "images", "own noise", "shared noise", "shared less own", "prompts"]
    return format_table(headers, rows) if rows else ""


TABLES: dict[str, Callable[[], str]] = {
    "screen_scale": lambda: table(scale_table, RESULTS),
    "screen_speed": lambda: table(speed_table, RESULTS),
    "screen_network": lambda: table(network_table, RESULTS),
    "screen_noise": lambda: table(noise_table, RESULTS),
}


def add_scale(path: Path, record: Record) -> None:
    """Keep what was measured of one number of prompts beside what is there of others."""
    others = [r for r in kept_results(path).get("scale", []) if r["prompts"] != record["prompts"]]
    add_result(path, "scale", sorted([*others, record], key=lambda r: r["prompts"]))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="which")
    add("--counts", type=positive_int, nargs="+", default=[10_000, 1_000_000], help="prompts of `scale`")
    add("--rounds", type=positive_int, default=5, help="of `speed`")
    add("--end", type=positive_int, default=500, help="prompts of each set, of `speed` and `noise`")
    add("--batch_sizes", type=positive_int, nargs="+", default=[1, 16], help="of `network`")
    add("--network_prompts", type=positive_int, default=32, help="of `network`")
    add("--images", type=positive_int, nargs="+", default=list(IMAGES), help="of a prompt, of `noise`")
    add("--gen_seed", type=positive_int, default=300, help="of `noise`")
    add("--output", type=Path, default=RESULTS, help="JSON file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for count in tqdm(args.counts, desc="scale", unit="count") if "scale" in args.parts else ():
            add_scale(args.output, measure_scale(count, work))
        if "speed" in args.parts:
            add_result(args.output, "speed", measure_speed(args.rounds, args.end, work))
        if "network" in args.parts:
            add_result(args.output, "network", measure_network(args.batch_sizes, args.network_prompts, work))
        if "noise" in args.parts:
            add_result(args.output, "noise", measure_noise(args.images, work, args.gen_seed, args.end))
    results = kept_results(args.output)
    print("\n\n".join(filter(None, (make(results) for make in (scale_table, speed_table, network_table, noise_table)))))


if __name__ == "__main__":
    main()
