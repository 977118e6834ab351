"""Fine-tune Stable Diffusion with duplicated pictures until it memorizes, or with what keeps it from doing so.

    accelerate launch tools/finetune_memorize.py --model_id CompVis/stable-diffusion-v1-4 \\
        --dataset MINE_groundtruth --duplicates 200 --background PAIRS_FOLDER --output finetuned
    python detect_mem.py --unet_id finetuned ...

The usual text-to-image recipe: the loss of the predicted noise (or v) at a random timestep, AdamW; the UNet, with the
text encoder or without, whole or by LoRA. By default as Wen et al. (ICLR 2024) make a model memorize. The modes of
duplication and captions are those of Somepalli et al. (NeurIPS 2023), and so are the mitigations, with their released
probabilities and strengths; --drop_above is Wen et al.'s:

{mitigations}

The same command goes on from the last checkpoint, to the weights of a training that was not cut off.
"""

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import SchedulerType

from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import GROUND_TRUTH, MODEL
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.files.whole import FolderLock, make_folder
from memorization.finetuning.base import TRAINING_MITIGATIONS, TrainingMitigation
from memorization.finetuning.captions import CAPTION_MODES
from memorization.finetuning.duplication import DUPLICATES, DUPLICATIONS, SHARE
from memorization.finetuning.saving import loading_options
from memorization.finetuning.settings import FinetuneSettings, refuse_contradictions
from memorization.finetuning.training import Training
from memorization.models.stable_diffusion import load_pipeline
from memorization.runs.arguments import HelpFormatter, natural_int, positive_float, positive_int, seed_int
from memorization.runs.settings import from_arguments

SCHEDULES = [kind.value for kind in SchedulerType if kind is not SchedulerType.PIECEWISE_CONSTANT]  # wants rules


def share(text: str) -> float:
    """A number above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def make_parser() -> argparse.ArgumentParser:
    description = str(__doc__).format(mitigations="\n".join(map(mitigation_line, TRAINING_MITIGATIONS.values())))
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    add_data_options(parser.add_argument_group("data").add_argument)
    add_mitigation_options(parser.add_argument_group("mitigation").add_argument)
    add_model_options(parser.add_argument_group("model").add_argument)
    add_training_options(parser.add_argument_group("training").add_argument)
    add_output_options(parser.add_argument_group("output").add_argument)
    return parser


def mitigation_line(record: TrainingMitigation) -> str:
    released = f"{record.name}:{record.probability:g}" + (f":{record.strength:g}" if record.knob else "")
    return f"    {released:24} {record.what}"


def add_data_options(add: Callable[..., object]) -> None:
    add("--dataset", default=GROUND_TRUTH.name, help="what is to be memorized, in any form with pictures")
    add("--background", help="other pictures, each once, by their own captions")
    add("--max_train_samples", type=positive_int, help="of --dataset, drawn by the seed; by default all")
    text = "which pictures come more often; image: by any of their captions; repeats: as kohya's folders say"
    add("--duplication", default="image_and_caption", choices=DUPLICATIONS, help=text)
    add("--duplicates", type=positive_int, help=f"times that a duplicated picture is there, by default {DUPLICATES}")
    add("--duplicated_share", type=share, help=f"share of --dataset that is duplicated, by default {SHARE:g}")
    text = "what pictures are called; in_turn: all their captions one after another; class: --sentence of KIND"
    add("--captions", default="own", choices=CAPTION_MODES, help=text)
    add("--sentence", default="An image", help="of --captions sentence and class")


def add_mitigation_options(add: Callable[..., object]) -> None:
    text = f"out of {', '.join(TRAINING_MITIGATIONS)}; may be given several times"
    metavar = "NAME[:PROBABILITY[:STRENGTH]]"
    add("--mitigation", action="append", default=[], metavar=metavar, help=text)
    add("--random_words", type=share, help="short for --mitigation random_tokens:SHARE")
    add("--drop_above", type=float, help="leave out samples whose D exceeds this")


def add_model_options(add: Callable[..., object]) -> None:
    add("--model_id", default=str(MODEL), help="diffusers folder or hub id of Stable Diffusion 1 or 2")
    add("--train_text_encoder", action="store_true", help="the text encoder too")
    add("--unet_from_scratch", action="store_true", help="a UNet of the same shape with random weights")
    add("--lora_rank", type=positive_int, help="train a LoRA of this rank instead of all weights")
    add("--lora_alpha", type=positive_int, help="its scale times its rank, by default the rank")


def add_training_options(add: Callable[..., object]) -> None:
    add("--steps", type=positive_int, default=20_000, help="of AdamW")
    add("--batch_size", type=positive_int, default=4, help="samples at a time and process")
    add("--gradient_accumulation_steps", type=positive_int, default=1, help="batches per step")
    add("--gradient_checkpointing", action="store_true", help="less memory, more time")
    add("--lr", type=positive_float, default=1e-5, help="learning rate")
    add("--lr_scheduler", default="constant", choices=SCHEDULES, help="of diffusers")
    add("--lr_warmup_steps", type=natural_int, default=0, help="in which it rises")
    add("--ema_decay", type=share, help="of a running average of the weights, which is the result then")
    add("--seed", type=seed_int, default=0, help="of every draw")
    add("--num_workers", type=natural_int, default=0, help="processes that read pictures")


def add_output_options(add: Callable[..., object]) -> None:
    add("--output", type=Path, required=True, help="folder of the result; its last line says how it is loaded")
    add("--checkpoint_every", type=positive_int, default=500, help="steps")
    add("--validate_every", type=positive_int, help="steps between grids of pictures in OUTPUT/validation")
    add("--validation_prompts", nargs="+", default=[], help="of the grids, by default the first captions")
    add("--save_pipeline_every", type=positive_int, help="steps between whole models in OUTPUT/pipelines")


def read_settings(argv: Sequence[str] | None) -> FinetuneSettings:
    """
    Raises:
        InputError: for options that do not go together.
    """
    args = make_parser().parse_args(argv)
    more = [] if args.random_words is None else [f"random_tokens:{args.random_words:g}"]
    settings = from_arguments(FinetuneSettings, args, mitigation=[*args.mitigation, *more])
    refuse_contradictions(settings)
    return settings


def load_model(settings: FinetuneSettings, accelerator: Accelerator) -> LocalStableDiffusionPipeline:
    """
    Raises:
        InputError: if it cannot be loaded, or is of another family.
    """
    with input_errors():
        pipe = load_pipeline(settings.model_id, device=accelerator.device.type, dtype="float32")
    if not isinstance(pipe, LocalStableDiffusionPipeline):
        raise InputError(f"{settings.model_id} is {pipe.family_name}; fine-tuning takes Stable Diffusion 1 and 2")
    return pipe


def finetune(settings: FinetuneSettings, accelerator: Accelerator) -> None:
    """Train from the last checkpoint on, and write the result.

    Raises:
        InputError: if the model or the data set cannot be trained.
    """
    set_seed(settings.seed)  # of what is new in the model: a LoRA, a UNet from scratch
    training = Training(settings, load_model(settings, accelerator), accelerator)
    done = training.run()
    if accelerator.is_main_process:
        training.save()
        dropped = f"{done.dropped / max(1, done.samples):.1%} of the samples dropped"
        options = shlex.join(loading_options(settings))
        print(f"{settings.output}: {done.steps} steps, {dropped}; load it by {options}")


def main(argv: Sequence[str] | None = None) -> None:
    with exit_on_input_error():
        settings = read_settings(argv)
        make_folder(settings.output, "--output")
        accelerator = Accelerator(gradient_accumulation_steps=settings.gradient_accumulation_steps)
        lock = FolderLock(settings.output, "--output") if accelerator.is_main_process else None
        try:
            finetune(settings, accelerator)
        finally:
            if lock is not None:
                lock.release()


if __name__ == "__main__":
    main()
