"""The jobs that are timed against one another, all in one process on one loaded model."""

import contextlib
import ctypes
import gc
import io
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import detect_mem
import inference_mem
from detect_mem import check_detect_args, detect_parser
from inference_mem import check_inference_args, inference_parser
from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import PLANTED
from memorization.data.prompts import load_prompts
from memorization.files.whole import read_png, save_png
from memorization.runs.session import Session
from memorization.runs.workers import Processes
from memorization.seeds import image_seed

PROMPTS = str(PLANTED / "planted_mem_groundtruth")
NEVER = "1e-6"  # a target that no magnitude reaches: PE and SS do all they may
PR = ["--l_target_pr", NEVER, "--mag_thres_pr", "2e-6"]


def random_sd14():
    """A pipeline of Stable Diffusion v1.4's shape with random weights, in float32."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(PLANTED / "planted_sd" / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        eos_token_id=tokenizer.eos_token_id, projection_dim=768,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    pipe = LocalStableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for module in (unet, vae, pipe.text_encoder):
        module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class WarmSession(Session):
    """A session on a pipeline that is loaded already."""

    warm = None

    def load(self):
        return self.warm


class Jobs:
    """The same prompts, seeds and steps for every job; each writes into a folder of its own."""

    def __init__(self, pipe, folder, num_images, batch_size, steps):
        self.pipe, self.folder = pipe, Path(folder)
        self.num_images, self.batch_size, self.steps = num_images, batch_size, steps
        self.records = load_prompts(PROMPTS, 0, num_images)
        WarmSession.warm = pipe
        self.samples = 0
        pipe.unet.register_forward_pre_hook(self.count)

    def count(self, unet, inputs):
        """Samples that enter the UNet, whoever calls it."""
        self.samples += len(inputs[0])

    def argv(self, *more):
        return [
            "--dataset", PROMPTS, "--end", str(self.num_images), "--num_images_per_prompt", "1",
            "--batch_size", str(self.batch_size), "--num_inference_steps", str(self.steps),
            "--output_dir", str(self.folder), *more,
        ]  # fmt: skip

    def stock(self):
        """diffusers' own pipeline and its images as PNG."""
        stock = StableDiffusionPipeline(**self.pipe.components, requires_safety_checker=False)
        stock.set_progress_bar_config(disable=True)
        images = self.folder / "images_data" / "stock"
        images.mkdir(parents=True)
        for k in range(0, self.num_images, self.batch_size):
            batch = self.records[k : k + self.batch_size]
            generators = [torch.Generator().manual_seed(image_seed(0, r.index, 0)) for r in batch]
            made = stock([r.prompt for r in batch], num_inference_steps=self.steps, generator=generators)
            for record, image in zip(batch, made.images, strict=True):
                save_png(images / f"{record.index}_{image_seed(0, record.index, 0)}.png", np.asarray(image))

    def detection(self, *more):
        args = detect_parser("").parse_args(self.argv(*more))
        check_detect_args(args)
        key = detect_mem.run_key(args)
        with Processes(args.device) as processes:
            with WarmSession(args, processes, key, key, detect_mem.SETTINGS) as session:
                self.complete(detect_mem.Detection(args, session))

    def two_passes(self):
        """As the released code: all attention of the down blocks computed eagerly and masks of all tokens stored
        in a first generation, scores in a second."""
        before = self.pipe.unet.attn_processors
        eager = {n: AttnProcessor() if n.startswith("down_blocks.") else p for n, p in before.items()}
        self.pipe.unet.set_attn_processor(eager)
        try:
            self.detection("--run_version", "baseline", "--store_all_tokens")
        finally:
            self.pipe.unet.set_attn_processor(before)
        self.detection("--attn_scores", str(self.folder / "attn_data" / "test_baseline_attention_scores.npz"))

    def mitigation(self, *more):
        args = inference_parser("").parse_args(self.argv(*more))
        check_inference_args(args)
        key = inference_mem.run_key(args)
        with Processes(args.device) as processes:
            with WarmSession(args, processes, key, f"{key}_mitigation", inference_mem.METHOD_SETTINGS) as session:
                self.complete(inference_mem.Mitigation(args, session))

    @staticmethod
    def complete(script):
        script.run()
        with contextlib.redirect_stdout(io.StringIO()):
            script.finish()

    def pe(self):
        self.mitigation("--optim_target_loss", NEVER)

    def prss(self):
        self.mitigation("--l_target_ss", NEVER, *PR)

    def all(self):
        """Name, function and least number of UNet evaluations an image of every job; the first is the measure."""
        steps, iterations, candidates = self.steps, 10, 1 + len(self.records[0].alternatives)
        return [
            ("(a) stock diffusers, no detection", self.stock, 2 * steps),
            ("(b) detection in one pass, with masks", self.detection, 2 * steps),
            ("(c) detection in two passes, as released", self.two_passes, 4 * steps),
            ("(d) PE, 10 iterations", self.pe, 1 + iterations + 2 * steps),
            (f"(d) PRSS, {candidates} candidates", self.prss, 1 + candidates + 3 * steps),
        ]

    def measure(self, function):
        """Run a job in an emptied folder: seconds, evaluations an image, peak bytes of memory, bytes written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        reset_peak_memory()
        self.samples, started = 0, time.perf_counter()
        function()
        seconds = time.perf_counter() - started
        written = sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())
        evals = self.samples / self.num_images
        return {"seconds": seconds, "evals": evals, "memory": peak_memory(), "written": written}

    def images(self, name):
        """The images of the job just run, uint8 (images, height, width, 3)."""
        folder = self.folder / "images_data" / name
        return np.stack([read_png(folder / f"{r.index}_{image_seed(0, r.index, 0)}.png") for r in self.records])


def reset_peak_memory():
    """Forget the peak so far, after giving back what is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError, AttributeError):  # Linux with glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory():
    """Peak bytes since the reset, the model included: of the GPU, or resident; None where it cannot be had."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024
    return None
