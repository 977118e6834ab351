"""Fine-tune the bundled model on captioned pictures of which some are repeated, then audit it and the model before.

    bash examples/audit.sh          makes the environment first
    python examples/audit.py        in an environment that is there

Half of the pictures of planted_control_groundtruth, which the model never saw, become a folder as people train LoRAs
on; the other half are the audit's controls. Pages go to audit_example/. A run that was cut off goes on where it was.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from memorization.audit.attacks import ATTACKS
from memorization.bundled import COPY_DESCRIPTOR, MODEL, PLANTED, ROOT, find_bundled
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.errors import InputError, exit_on_input_error
from memorization.files.whole import make_folder
from memorization.runs.arguments import HelpFormatter, natural_int, positive_int

# Five to nine minutes on two idle cores. A repeated picture is seen about 380 times, and half of those come back; one
# that is there once about ten times.
TRAINED = 24  # of 48 pictures; the others are controls
REPEATED, REPEATS = 8, 40  # how many of those are repeated, and how often
STEPS, BATCH_SIZE, CHECKPOINT_EVERY = 400, 8, 100
LORA = ("--lora_rank", "32", "--lr", "2e-3")
UNET = ("--lr", "1e-4")  # where peft is not there
NUM_IMAGES, NUM_INFERENCE_STEPS = 4, 20
# With 24 controls a rate of 0.05 would take 20 captions above all of them before any is found.
FDR = 0.1

TUNED, UNTOUCHED, ALONE = "tuned", "untouched", "without_base"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("output", type=Path, nargs="?", default=Path("audit_example"), help="where all of it goes")
    add("--seed", type=natural_int, default=0, help="which pictures are repeated, and of every other draw")
    add("--model_id", default=str(MODEL), help="another model of Stable Diffusion 1 or 2")
    add("--without_base", action="store_true", help="audit the tuned model once more, as where the base is not at hand")
    text = "extraction attacks on the tuned model besides, as of audit_mem.py; each takes longer than the audit"
    add("--attacks", nargs="+", choices=tuple(ATTACKS), default=[], help=text)
    add("--steps", type=positive_int, default=STEPS, help="of fine-tuning")
    add("--num_inference_steps", type=positive_int, default=NUM_INFERENCE_STEPS, help="DDIM steps")
    return parser


def write_pictures(folder: Path, seed: int) -> None:
    """Kohya's folders REPEATS_NAME: `pictures`, of which some are repeated, and `held_out`, that are not trained on."""
    records = load_prompts(str(PLANTED / "planted_control_groundtruth"))
    random.Random(seed).shuffle(records)
    parts = {
        f"pictures/{REPEATS}_repeated": records[:REPEATED],
        "pictures/1_once": records[REPEATED:TRAINED],
        "held_out/1_held_out": records[TRAINED:],
    }
    for name, some in parts.items():
        for record in some:
            write_pair(make_folder(folder / name), record)


def write_pair(folder: Path, record: PromptRecord) -> None:
    """A picture and its caption beside it."""
    shutil.copyfile(str(record.reference_images[0]), folder / f"{record.index:02}.png")
    (folder / f"{record.index:02}.txt").write_text(record.prompt + "\n", encoding="utf-8")


def run_at_once(commands: Mapping[str, Sequence[object]], folder: Path) -> None:
    """Commands of the clone by their names; what they print at their ends is left to the end of this.

    The first shows its bars; the others work behind it and write them to FOLDER/NAME.log. They share the CPU.

    Raises:
        InputError: once all have ended, if one has failed, whose reason it has said.
    """
    threads = f"{max((os.cpu_count() or 1) // len(commands), 1)}"
    environment = ({"OMP_NUM_THREADS": threads} if len(commands) > 1 else {}) | os.environ
    logs, running = {name: folder / f"{name}.log" for name in list(commands)[1:]}, {}
    with ExitStack() as opened:
        for name, words in commands.items():
            print(f"$ python {' '.join(str(word).removeprefix(f'{ROOT}/') for word in words)}", flush=True)
            stderr = opened.enter_context(logs[name].open("w", encoding="utf-8")) if name in logs else None
            how = {"cwd": ROOT, "env": environment, "stdout": subprocess.DEVNULL, "stderr": stderr}
            running[name] = subprocess.Popen([sys.executable, *map(str, words)], **how)
    codes = {name: command.wait() for name, command in running.items()}
    for name, code in codes.items():
        if code:
            where = f", see {logs[name]}" if name in logs else ""
            raise InputError(f"{name} ended with exit code {code}{where}; the same command again goes on")


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        folder = make_folder(args.output.resolve() / f"seed_{args.seed}", "output")
        pictures, held_out, model = folder / "pictures", folder / "held_out", folder / "model"
        base = ("--model_id", find_bundled(args.model_id))
        has_peft = importlib.util.find_spec("peft") is not None

        print(f"1. {TRAINED} captioned pictures, {REPEATED} of them {REPEATS} times: {pictures}")
        write_pictures(folder, args.seed)

        print("2. Fine-tuning on them: " + ("a LoRA." if has_peft else "the UNet, since peft is not installed."))
        how = ("--steps", args.steps, "--batch_size", BATCH_SIZE, "--checkpoint_every", CHECKPOINT_EVERY)
        how += ("--seed", args.seed, *(LORA if has_peft else UNET))
        data = ("--dataset", pictures, "--duplication", "repeats")
        run_at_once({"training": ("tools/finetune_memorize.py", *base, *data, "--output", model, *how)}, folder)

        print("3. Audits of the tuned model against its base, and of the base by itself.")
        data = ("--training_data", pictures, "--controls", held_out, "--sscd", COPY_DESCRIPTOR, "--fdr", FDR)
        how = ("--num_images_per_prompt", NUM_IMAGES, "--num_inference_steps", args.num_inference_steps)
        how += ("--gen_seed", args.seed)
        added = ("--lora" if has_peft else "--unet_id", model)
        attacks = ("--attacks", *args.attacks) if args.attacks else ()
        audits = {TUNED: (*added, "--base_model_id", "own", *attacks), UNTOUCHED: ()}
        if args.without_base:
            audits[ALONE] = added
        words = ("audit_mem.py", *base, *data, *how)
        run_at_once({name: (*words, *more, "--output", folder / name) for name, more in audits.items()}, folder)

        for name in audits:
            verdict = json.loads((folder / name / "audit.json").read_text(encoding="utf-8"))["verdict"]
            print("\n".join([f"\n{name}: {verdict['text']}", *verdict["warnings"], str(folder / name / "report.html")]))


if __name__ == "__main__":
    main()
