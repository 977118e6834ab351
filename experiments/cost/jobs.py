"""The jobs that are timed against one another, all in one process on one loaded model."""

import contextlib
import ctypes
import gc
import inspect
import io
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import detect_mem
import inference_mem
from local_sd_pipeline import DenoisingPipeline, LocalStableDiffusionPipeline
from memorization.bundled import GROUND_TRUTH, MODEL
from memorization.data.prompts import load_prompts
from memorization.files.layout import RunFiles
from memorization.files.whole import read_png, save_png
from memorization.seeds import image_seed

PROMPTS = str(GROUND_TRUTH)
NEVER = 1e-6  # a target that no magnitude reaches: PE and SS do all they may


def random_sd14() -> LocalStableDiffusionPipeline:
    """A pipeline of Stable Diffusion v1.4's shape with random weights, in float32."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        eos_token_id=tokenizer.eos_token_id,
        projection_dim=768,
    )
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = LocalStableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for module in (unet, vae, pipe.text_encoder):
        module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock_pipeline(pipe: DenoisingPipeline) -> DiffusionPipeline:
    """diffusers' own pipeline of the same parts and config."""
    cls = next(c for c in type(pipe).__mro__ if c.__module__.startswith("diffusers.pipelines."))
    wanted = inspect.signature(cls.__init__).parameters
    config = {name: pipe.config[name] for name in wanted if name in pipe.config and name not in pipe.components}
    unmarked = {"add_watermarker": False} if "add_watermarker" in wanted else {}
    stock = cls(**pipe.components, **config, **unmarked)
    stock.set_progress_bar_config(disable=True)
    return stock


@dataclass(frozen=True)
class Job:
    """A piece of work that is timed: its name, what does it, and the least UNet evaluations per image it needs."""

    name: str
    do: Callable[[], object]
    least_evals: int


@dataclass(frozen=True)
class Measured:
    """What a job took: seconds, evaluations per image, peak bytes of memory (None where unknown), bytes written."""

    seconds: float
    evals: float
    memory: int | None
    written: int


class Jobs:
    """The same prompts, seeds and steps for every job; each writes into a folder of its own."""

    def __init__(self, pipe: DenoisingPipeline, folder: Path, num_images: int, batch_size: int, steps: int):
        self.pipe, self.folder = pipe, Path(folder)
        self.num_images, self.batch_size, self.steps = num_images, batch_size, steps
        self.records = load_prompts(PROMPTS, 0, num_images)
        self.samples = 0
        pipe.denoiser.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, denoiser: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        """Samples that enter the UNet or transformer, whoever calls it."""
        self.samples += len(args[0] if args else kwargs["hidden_states"])

    def run(self, script: ModuleType, **options: object) -> None:
        """A script on the jobs' prompts, without its table."""
        common = {
            "dataset": PROMPTS,
            "end": self.num_images,
            "num_images_per_prompt": 1,
            "batch_size": self.batch_size,
            "num_inference_steps": self.steps,
            "output_dir": self.folder,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            script.run(self.pipe, **(common | options))

    def detection(self, **options: object) -> None:
        self.run(detect_mem, **options)

    def mitigation(self, **options: object) -> None:
        self.run(inference_mem, **options)

    def stock(self) -> None:
        """diffusers' own pipeline and its images as PNG."""
        stock, size = stock_pipeline(self.pipe), self.pipe.native_length
        how = {"num_inference_steps": self.steps, "height": size, "width": size}
        files = RunFiles(self.folder, "stock")
        files.images.mkdir(parents=True)
        for k in range(0, self.num_images, self.batch_size):
            batch = self.records[k : k + self.batch_size]
            seeds = [image_seed(0, r.index, 0) for r in batch]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            made = stock([r.prompt for r in batch], generator=generators, **how)
            for record, seed, image in zip(batch, seeds, made.images, strict=True):
                save_png(files.image(record.index, seed), np.asarray(image))

    def two_passes(self) -> None:
        """As the released code: all attention of the down blocks computed eagerly and masks of all tokens stored
        in a first generation, scores in a second."""
        before = self.pipe.unet.attn_processors
        eager = {n: AttnProcessor() if n.startswith("down_blocks.") else p for n, p in before.items()}
        self.pipe.unet.set_attn_processor(eager)
        try:
            self.detection(run_version="baseline", store_all_tokens=True)
        finally:
            self.pipe.unet.set_attn_processor(before)
        self.detection(attn_scores=RunFiles(self.folder, "test_baseline").masks)

    def detecting(self) -> list[Job]:
        """Stock diffusers, the measure of all other jobs, and detection; of any family."""
        stock_evals = self.steps if self.pipe.is_distilled else 2 * self.steps
        return [
            Job("(a) stock diffusers, no detection", self.stock, stock_evals),
            Job("(b) detection in one pass, with masks", self.detection, 2 * self.steps),
        ]

    def all(self) -> list[Job]:
        """Every job; the first is the measure."""
        steps, iterations, candidates = self.steps, 10, 1 + len(self.records[0].alternatives)
        pe = partial(self.mitigation, optim_target_loss=NEVER)
        prss = partial(self.mitigation, l_target_ss=NEVER, l_target_pr=NEVER, mag_thres_pr=2 * NEVER)
        return [
            *self.detecting(),
            Job("(c) detection in two passes, as released", self.two_passes, 4 * steps),
            Job("(d) PE, 10 iterations", pe, 1 + iterations + 2 * steps),
            Job(f"(d) PRSS, {candidates} candidates", prss, 1 + candidates + 3 * steps),
        ]

    def measure(self, do: Callable[[], object]) -> Measured:
        """Run a job in an emptied folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        reset_peak_memory()
        self.samples, started = 0, time.perf_counter()
        do()
        seconds = time.perf_counter() - started
        written = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        return Measured(seconds, self.samples / self.num_images, peak_memory(), written)

    def images(self, key: str) -> np.ndarray:
        """The images of the job just run, uint8 (images, height, width, 3)."""
        files = RunFiles(self.folder, key)
        return np.stack([read_png(files.image(r.index, image_seed(0, r.index, 0))) for r in self.records])


def reset_peak_memory() -> None:
    """Forget the peak so far, after giving back what is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError, AttributeError):  # Linux with glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Peak bytes since the reset, the model included: of the GPU, or resident; None where it cannot be had."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024
    return None
