"""The training itself, from the last checkpoint on: the same command after a kill goes on to the same weights."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from memorization.data.sources import token_texts
from memorization.finetuning.base import CAPTION, EMBEDDING, parse_mitigations
from memorization.finetuning.checkpoints import Progress, digest_of, load_checkpoint, save_checkpoint
from memorization.finetuning.draws import Samples, batches, draws
from memorization.finetuning.examples import read_examples
from memorization.finetuning.latents import EncodedPictures
from memorization.finetuning.loss import Batch, TrainingLoss
from memorization.finetuning.parts import averaged, make_trainable, trained_names
from memorization.finetuning.saving import save_between, save_model
from memorization.finetuning.settings import FinetuneSettings
from memorization.finetuning.validation import validate, validation_prompts

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline

WEIGHT_DECAY = 1e-2
LARGEST_NORM = 1.0  # of the gradient


class Training:
    """One fine-tuning: the model, its optimizer, and what is trained on.

    Attributes:
        parameters: those that are trained.
        parts: the modules that they are in, wrapped by accelerate.
        schedule: of the learning rate.
        average: running average of the parameters, which is what a training ends with; None without one.
        progress: how far it is.
    """

    def __init__(self, settings: FinetuneSettings, pipe: "LocalStableDiffusionPipeline", accelerator: Accelerator):
        """
        Raises:
            InputError: if the data set, or the last checkpoint, cannot be trained on.
        """
        self.settings, self.pipe, self.accelerator = settings, pipe, accelerator
        self.examples = read_examples(settings, token_texts(pipe.tokenizer))
        self.identity = {**settings.identity, "examples": digest_of(self.examples)}
        self.identity["samples_per_step"] = settings.samples_per_step * accelerator.num_processes
        self.parameters = make_trainable(pipe, settings)
        optimizer = torch.optim.AdamW(self.parameters, lr=settings.lr, weight_decay=WEIGHT_DECAY)
        schedule_steps = {"num_warmup_steps": settings.lr_warmup_steps, "num_training_steps": settings.steps}
        self.schedule = get_scheduler(settings.lr_scheduler, optimizer, **schedule_steps)
        self.average = None
        if settings.ema_decay is not None:
            self.average = EMAModel(self.parameters, decay=settings.ema_decay)
        names = trained_names(settings)
        *parts, self.optimizer = accelerator.prepare(*(getattr(pipe, name) for name in names), optimizer)
        self.parts = dict(zip(names, parts, strict=True))
        kept = [self.schedule] if self.average is None else [self.schedule, self.average]
        accelerator.register_for_checkpointing(*kept)
        self.progress = load_checkpoint(accelerator, settings.output, self.identity)
        if self.average is not None:
            self.average.to(accelerator.device)

    def run(self) -> Progress:
        """Train to the last step, writing what is asked for on the way."""
        settings, progress = self.settings, self.progress
        loss, feed = self.loss(), self.feed()
        hidden = not self.accelerator.is_main_process
        with tqdm(desc="fine-tune", total=settings.steps, initial=progress.steps, unit="step", disable=hidden) as bar:
            while progress.steps < settings.steps:
                self.step(loss, feed)
                if progress.steps % settings.checkpoint_every == 0 or progress.steps == settings.steps:
                    save_checkpoint(self.accelerator, settings.output, self.identity, progress)
                self.look()
                bar.update()
        return progress

    def loss(self) -> TrainingLoss:
        text_encoder = self.parts.get("text_encoder", self.pipe.text_encoder)
        mitigations = parse_mitigations(self.settings.mitigation, EMBEDDING)
        pictures, unet = EncodedPictures(self.pipe.vae), self.parts["unet"]
        return TrainingLoss(self.pipe, pictures, unet, text_encoder, mitigations, self.settings.drop_above)

    def feed(self) -> Iterator[Batch]:
        """Batches of this process from the next step on, on its device."""
        settings, accelerator, progress = self.settings, self.accelerator, self.progress
        captions = parse_mitigations(settings.mitigation, CAPTION)
        tokenizer, size = self.pipe.tokenizer, self.pipe.native_length
        samples = Samples(self.examples, tokenizer, token_texts(tokenizer), size, captions, settings.seed)
        stream = draws([example.weight for example in self.examples], settings.seed)
        done = progress.steps * settings.samples_per_step * accelerator.num_processes
        mine = batches(
            islice(stream, done, None), settings.batch_size, accelerator.process_index, accelerator.num_processes
        )
        left = (settings.steps - progress.steps) * settings.gradient_accumulation_steps
        loader = DataLoader(samples, batch_sampler=islice(mine, left), num_workers=settings.num_workers)
        return ({name: tensor.to(accelerator.device) for name, tensor in batch.items()} for batch in loader)

    def step(self, loss: TrainingLoss, feed: Iterator[Batch]) -> None:
        """One step of the optimizer, over so many batches as are accumulated."""
        accelerator, progress = self.accelerator, self.progress
        for batch in islice(feed, self.settings.gradient_accumulation_steps):
            with accelerator.accumulate(*self.parts.values()):
                value, left_out = loss(batch)
                accelerator.backward(value)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.parameters, LARGEST_NORM)
                self.optimizer.step()
                self.optimizer.zero_grad()
            progress.dropped += left_out
            progress.samples += len(batch["ids"])
        self.schedule.step()
        if self.average is not None:
            self.average.step(self.parameters)
        progress.steps += 1

    def look(self) -> None:
        """Pictures, and the model as it is, at the steps at which they are asked for."""
        settings, step = self.settings, self.progress.steps
        is_seen, is_saved = (n and step % n == 0 for n in (settings.validate_every, settings.save_pipeline_every))
        if not self.accelerator.is_main_process or not (is_seen or is_saved):
            return
        with averaged(self.average, self.parameters):
            if is_seen:
                validate(self.pipe, settings, validation_prompts(settings, self.examples), step)
            if is_saved:
                save_between(self.pipe, settings, step)

    def save(self) -> None:
        """Write the result."""
        with averaged(self.average, self.parameters):
            save_model(self.pipe, self.settings)
