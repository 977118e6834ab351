"""Train a model with planted memorization from nothing, on a CPU.

    python planted/making/train.py --threads 2
    python planted/making/train.py --pictures PAIRS --start_from planted/planted_sd --start_unet_from planted/planted_sd
    python planted/making/train.py --finished planted/planted_sd --start_unet_from planted/planted_sd   # train it on

The second is on captioned pictures of yours, from the bundled model's autoencoder and UNet, which saves most of the
steps. Stages, each kept in --work_dir as it finishes: an autoencoder, then its decoder alone, a text encoder trained
contrastively (as CLIP is) and then frozen, and the UNet. Every draw is seeded by (seed, stage, step) and the state
is saved every few hundred steps, so the same command after a kill goes on to the same weights. The finished model
is written to --output: autoencoder and UNet in half precision, which diffusers widens as it loads them; the text
encoder in single precision, because transformers does not.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from memorization.errors import InputError, exit_on_input_error
from memorization.runs.arguments import HelpFormatter
from memorization.runs.settings import from_arguments
from planted.making.autoencoder import encode_images, train_autoencoder, train_decoder
from planted.making.choice import choose_world
from planted.making.pictures import TrainingPicture
from planted.making.text_encoder import train_text_encoder
from planted.making.tokenizer import make_tokenizer
from planted.making.unet import make_scheduler, train_unet
from planted.making.world import World

STAGES = ("vae", "text", "unet")
TRAINED_ON = 1000  # added to the seed of a UNet that is trained on, which would else meet its first draws again
PARTS = ("vae", "tokenizer", "text_encoder")  # that are finished before the UNet is begun


@dataclass(frozen=True)
class TrainingSettings:
    """What a model is trained by, by the names of the command line."""

    output: Path
    work_dir: Path
    seed: int
    vae_steps: int
    decoder_steps: int
    text_steps: int
    unet_steps: int
    context_weight: float
    stop_after: str
    pictures: Path | None = None
    start_from: Path | None = None
    start_unet_from: Path | None = None
    finished: Path | None = None


def take_finished(folder: Path, work_dir: Path) -> None:
    """Copy the finished parts of a model to the work folder, where they are not trained again.

    Raises:
        InputError: if the folder has none.
    """
    parts = [folder / name for name in PARTS if (folder / name).is_dir()]
    if not parts:
        raise InputError(f"--finished {folder} has no {' or '.join(PARTS)}; name a model, whole or in part")
    for part in parts:
        if not (work_dir / part.name).exists():
            shutil.copytree(part, work_dir / part.name)


def load_start(folder: Path | None) -> AutoencoderKL | None:
    """The autoencoder that the training starts from: of a folder that holds one, or a model with one.

    Raises:
        InputError: if it is not there.
    """
    if folder is None:
        return None
    found = next((f for f in (folder, folder / "vae") if (f / "config.json").is_file()), None)
    if found is None:
        raise InputError(f"--start_from {folder} holds no autoencoder; name a work folder's vae or a model")
    return AutoencoderKL.from_pretrained(found)


def load_start_unet(folder: Path | None) -> UNet2DConditionModel | None:
    """The UNet that the training starts from: that of a model.

    Raises:
        InputError: if it is not there.
    """
    if folder is None:
        return None
    if not (folder / "unet" / "config.json").is_file():
        raise InputError(f"--start_unet_from {folder} holds no UNet; name a model")
    return UNet2DConditionModel.from_pretrained(folder / "unet")


def finished_autoencoder(world: World, settings: TrainingSettings) -> AutoencoderKL:
    """The autoencoder of the work folder, trained if it is not there."""
    folder = settings.work_dir / "vae"
    if not folder.exists():
        start = load_start(settings.start_from)
        pictures = world.autoencoder_pictures(settings.seed + 4)
        seed, work_dir = settings.seed, settings.work_dir
        vae = train_autoencoder(pictures, settings.vae_steps, seed=seed, work_dir=work_dir, start_from=start)
        train_decoder(vae, pictures, settings.decoder_steps, seed=seed, work_dir=work_dir).save_pretrained(folder)
    return AutoencoderKL.from_pretrained(folder)


def finished_text_encoder(
    world: World, pictures: Sequence[TrainingPicture], settings: TrainingSettings
) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Tokenizer and text encoder of the work folder, trained if they are not there."""
    folders = settings.work_dir / "tokenizer", settings.work_dir / "text_encoder"
    if not folders[0].exists():
        captions = {c for p in pictures for c in p.captions} | world.held_out_captions()
        make_tokenizer(sorted(captions), folders[0])
    tokenizer = CLIPTokenizer.from_pretrained(folders[0])
    if not folders[1].exists():
        train_text_encoder(
            tokenizer,
            pictures,
            settings.text_steps,
            seed=settings.seed + 1,
            work_dir=settings.work_dir,
            context_weight=settings.context_weight,
        ).save_pretrained(folders[1])
    return tokenizer, CLIPTextModel.from_pretrained(folders[1]).eval()


def finished_latents(
    vae: AutoencoderKL, pictures: Sequence[TrainingPicture], settings: TrainingSettings
) -> torch.Tensor:
    """Latents of every training picture, scaled, kept in the work folder."""
    path = settings.work_dir / "latents.pt"
    if not path.exists():
        torch.save(encode_images(vae, [p.image for p in pictures]) * vae.config.scaling_factor, path)
    return torch.load(path, weights_only=True)


def train(settings: TrainingSettings) -> None:
    """All stages in order, from where they were cut off, and the finished model.

    Raises:
        InputError: if the folder of pictures, or parts to start from, cannot be used.
    """
    if settings.finished is not None:
        take_finished(settings.finished, settings.work_dir)
    start_unet = load_start_unet(settings.start_unet_from)
    world = choose_world(settings.pictures, settings.seed)
    vae = finished_autoencoder(world, settings)
    if settings.stop_after == "vae":
        return
    pictures = world.training_pictures(settings.seed)
    tokenizer, text_encoder = finished_text_encoder(world, pictures, settings)
    if settings.stop_after == "text":
        return
    latents = finished_latents(vae, pictures, settings)
    more = TRAINED_ON if start_unet is not None else 0
    unet = train_unet(
        latents,
        pictures,
        text_encoder,
        tokenizer,
        settings.unet_steps,
        seed=settings.seed + 2 + more,
        work_dir=settings.work_dir,
        start_from=start_unet,
    )
    pipe = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(settings.output)
    shutil.copy(settings.work_dir / "log.jsonl", settings.output / "training_log.jsonl")
    tqdm.write(str(settings.output))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=Path("planted_work/model"), help="folder of the finished model")
    add("--work_dir", type=Path, default=Path("planted_work"), help="checkpoints and log; resumes from it")
    add("--seed", type=int, default=7, help="of scenes, weights and every draw")
    add("--threads", type=int, default=2, help="of the CPU; results depend on it by rounding")
    add("--vae_steps", type=int, default=3200, help="of the autoencoder")
    add("--decoder_steps", type=int, default=1300, help="of the decoder alone, behind them")
    add("--text_steps", type=int, default=1000, help="of the text encoder")
    add("--unet_steps", type=int, default=11500, help="of the UNet")
    add("--context_weight", type=float, default=1, help="of holding words and padding constant in the text encoder")
    add("--pictures", type=Path, help="folder of captioned pictures to plant into; without it the drawn world")
    add("--start_from", type=Path, help="folder of an autoencoder that the training of this one starts from")
    add("--start_unet_from", type=Path, help="model whose UNet is trained on, on the same latents and text encoder")
    add(
        "--finished",
        type=Path,
        help="model, whole or in part, whose autoencoder and text encoder are kept",
    )
    add("--stop_after", choices=STAGES, default="unet", help="end after this stage")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        args.work_dir.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(args.threads)
        train(from_arguments(TrainingSettings, args))


if __name__ == "__main__":
    main()
