"""One observed generation: latents out, and on the way what every detection score is made of. Images come first
everywhere: the first dimension of every tensor is that of the batch's images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from attn_utils import (
    CrossAttentionStore,
    TokenShares,
    bright_ending_mask,
    padding_sum,
    token_column,
)
from memorization.trace import Calibration, Embeds, Trace

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline
    from memorization.detectors.base import Detector


@dataclass(frozen=True)
class LayerColumns:
    """What a layer's end token and padding got at the last step, each float32 (images, height, width).

    Attributes:
        raw: of joint attention, what each end token and all text got before `end` and `padding` were divided by that.
    """

    end: torch.Tensor
    padding: torch.Tensor
    raw: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def part(self, some: slice) -> "LayerColumns":
        return LayerColumns(self.end[some], self.padding[some], {name: m[some] for name, m in self.raw.items()})

    @classmethod
    def join(cls, pieces: Sequence["LayerColumns"]) -> "LayerColumns":
        """The columns of several batches as one."""
        raw = {name: torch.cat([p.raw[name] for p in pieces]) for name in pieces[0].raw}
        return cls(torch.cat([p.end for p in pieces]), torch.cat([p.padding for p in pieces]), raw)


@dataclass(frozen=True)
class Observation:
    """What one pass over a batch of images leaves behind.

    Attributes:
        latents: final latents, (images, channels, height, width).
        diff_maps: channel-summed squares of the noise difference, float32 (images, steps, height, width).
        uncond_norms: norm of the unconditional noise prediction, float32 (images, steps).
        mask: bright-ending mask, float32 (images, 1, height, width), or None when not captured.
        attention: whole-token maps by layer, (images, height * width, tokens), when asked for.
        columns: end-token and padding attention of the layers that were asked for, by layer.
        scores: what the detectors gave by row key, (images,) or (images, steps).
        found_maps: maps that detectors made on the way, (images, height, width) by name.
    """

    latents: torch.Tensor
    diff_maps: torch.Tensor
    uncond_norms: torch.Tensor
    mask: torch.Tensor | None = None
    attention: Mapping[str, torch.Tensor] = field(default_factory=dict)
    columns: Mapping[str, LayerColumns] = field(default_factory=dict)
    scores: Mapping[str, torch.Tensor] = field(default_factory=dict)
    found_maps: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def split(self, count: int) -> list["Observation"]:
        """One observation per prompt, of `count` images each."""
        return [self.part(slice(k, k + count)) for k in range(0, len(self.latents), count)]

    def part(self, some: slice) -> "Observation":
        return Observation(
            self.latents[some],
            self.diff_maps[some],
            self.uncond_norms[some],
            None if self.mask is None else self.mask[some],
            {name: maps[some] for name, maps in self.attention.items()},
            {name: c.part(some) for name, c in self.columns.items()},
            {key: values[some] for key, values in self.scores.items()},
            {name: maps[some] for name, maps in self.found_maps.items()},
        )

    @classmethod
    def join(cls, pieces: Sequence["Observation"]) -> "Observation":
        """The observation of several batches, which recorded the same, as one."""
        first = pieces[0]
        return cls(
            torch.cat([p.latents for p in pieces]),
            torch.cat([p.diff_maps for p in pieces]),
            torch.cat([p.uncond_norms for p in pieces]),
            None if first.mask is None else torch.cat([p.mask for p in pieces if p.mask is not None]),
            {name: torch.cat([p.attention[name] for p in pieces]) for name in first.attention},
            {name: LayerColumns.join([p.columns[name] for p in pieces]) for name in first.columns},
            {key: torch.cat([p.scores[key] for p in pieces]) for key in first.scores},
            {name: torch.cat([p.found_maps[name] for p in pieces]) for name in first.found_maps},
        )


@dataclass(frozen=True)
class Recorded:
    """Which attention a generation records at its last step.

    Attributes:
        layers: layers whose mean is the bright-ending mask; none captures nothing.
        map_layers: layers whose end-token and padding attention is kept as well, for localisation.
        all_tokens: keep the maps of every token of `layers` as well (the original's layout).
    """

    layers: Sequence[str] = ()
    map_layers: Sequence[str] = ()
    all_tokens: bool = False

    def store(self, pipe: "DenoisingPipeline", tokens: torch.Tensor) -> CrossAttentionStore | None:
        names = list(dict.fromkeys([*self.layers, *self.map_layers]))
        if not names:
            return None
        return pipe.attention_store(names, None if self.all_tokens else tokens, padding=bool(self.map_layers))


@dataclass(frozen=True)
class Inputs:
    """What a batch of images is generated from; the first dimension is that of the images.

    Attributes:
        latents: starting noise, (images, channels, height, width).
        embeds: (uncond, text) features, each (images, tokens, dim).
        tokens: end-token index, int64 (images,); with several text encoders (images, end tokens).
        seeds: one integer per image.
        masks: of an earlier pass, (images, 1, height, width).
        base_embeds: `embeds` by the text encoder of the model before it was tuned.
        first_uncond: unconditional output of the first step where it is known, shaped as `latents`.
    """

    latents: torch.Tensor
    embeds: Embeds
    tokens: torch.Tensor
    seeds: Sequence[int]
    masks: torch.Tensor | None = None
    base_embeds: Embeds | None = None
    first_uncond: torch.Tensor | None = None

    def chunks(self, size: int) -> Iterator["Inputs"]:
        """The batch in pieces of at most `size` images."""
        for start in range(0, len(self.seeds), size):
            some = slice(start, start + size)
            masks = None if self.masks is None else self.masks[some]
            embeds = (self.embeds[0][some], self.embeds[1][some])
            base = None if self.base_embeds is None else (self.base_embeds[0][some], self.base_embeds[1][some])
            uncond = None if self.first_uncond is None else self.first_uncond[some]
            yield Inputs(self.latents[some], embeds, self.tokens[some], self.seeds[some], masks, base, uncond)


def make_inputs(
    pipe: "DenoisingPipeline",
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    latents: torch.Tensor | None = None,
    text: torch.Tensor | None = None,
    masks: torch.Tensor | None = None,
) -> Inputs:
    """What the images of some prompts are generated from, the same number of each.

    Args:
        seeds: of each prompt's images.
        latents: starting noise; by default each image's own, of its seed.
        text: features of each prompt, (prompts, tokens, dim); by default those of its words.
        masks: of an earlier pass, (images, 1, height, width).
    """
    count, flat = len(seeds[0]), [seed for some in seeds for seed in some]
    encoded, negative = pipe.encode(prompts)
    text = encoded if text is None else text
    base_text, base_negative = (None, None) if pipe.base is None else pipe.base.encode(prompts)
    return Inputs(
        latents=pipe.initial_latents(flat) if latents is None else latents,
        embeds=(negative.repeat_interleave(count, 0), text.repeat_interleave(count, 0)),
        tokens=torch.tensor([pipe.end_rows(p) for p in prompts]).repeat_interleave(count, 0),
        seeds=flat,
        masks=masks,
        base_embeds=None
        if base_text is None or base_negative is None
        else (base_negative.repeat_interleave(count, 0), base_text.repeat_interleave(count, 0)),
    )


def observe_batches(
    pipe: "DenoisingPipeline", inputs: Inputs, batch_size: int, recorded: Recorded, **observe_kwargs
) -> Observation:
    """`observe` for any number of images, at most `batch_size` in a UNet call."""
    pieces = [
        observe(
            pipe,
            b.latents,
            b.embeds,
            b.tokens,
            recorded,
            seeds=b.seeds,
            mask=b.masks,
            base_embeds=b.base_embeds,
            first_uncond=b.first_uncond,
            **observe_kwargs,
        )
        for b in inputs.chunks(batch_size)
    ]
    return Observation.join(pieces)


def observe(
    pipe: "DenoisingPipeline",
    latents: torch.Tensor,
    embeds: Embeds,
    tokens: torch.Tensor,
    recorded: Recorded = Recorded(),  # noqa: B008  # frozen
    *,
    seeds: Sequence[int] = (),
    detectors: Sequence["Detector"] = (),
    mask: torch.Tensor | None = None,
    calibration: Calibration | None = None,
    base_embeds: Embeds | None = None,
    first_uncond: torch.Tensor | None = None,
    num_inference_steps: int = 50,
    **denoise_kwargs,
) -> Observation:
    """Generate once and keep the noise-difference maps, the bright-ending mask and the detectors' scores.

    Args:
        pipe: a `DenoisingPipeline`.
        latents: initial noise, shape (images, channels, height, width).
        embeds: text features per branch, uncond first, each (images, tokens, dim).
        tokens: end-token index of every image, as of `Inputs`.
        recorded: which attention of the last step is kept.
        seeds: one integer per image, for detectors that draw at random.
        detectors: what is measured when the generation is over, but for those of finished images.
        mask: bright-ending mask of an earlier pass, (images, 1, height, width), in place of this generation's.
        calibration: for detectors that compare with ordinary images.
        base_embeds: `embeds` by the text encoder of the base, for detectors that compare with it.
        first_uncond: unconditional output of the first step, shaped as `latents`, where it is known: it is not
            evaluated again, unless attention is read in that step.
        **denoise_kwargs: further arguments of `pipe.denoise`.

    Returns:
        An `Observation`; tensors stay on the pipeline's device, and nothing here waits for it.
    """
    trace = Trace(pipe, embeds, tokens, seeds, num_inference_steps, calibration=calibration, detectors=detectors)
    trace.base_embeds = base_embeds
    trace.token_shares = token_share_stores(pipe, detectors, num_inference_steps)
    store = recorded.store(pipe, tokens)
    final = pipe.generate(
        latents,
        embeds,
        store=store,
        step_stores=trace.token_shares,
        callback=trace.watch,
        first_uncond=None if store is not None or 0 in trace.token_shares else first_uncond,
        num_inference_steps=num_inference_steps,
        **denoise_kwargs,
    )
    maps, others = ({}, ()) if store is None else (store.maps, store.others)
    columns = {name: end_and_padding(maps[name], recorded, tokens) for name in maps}
    if recorded.layers:
        ends = [columns[name][0] for name in recorded.layers]
        trace.bright_ending = bright_ending_mask(ends, map_size(latents, ends[0]))
    trace.mask = trace.bright_ending if mask is None else mask.to(latents.device)
    scores = measure(trace)
    return Observation(
        latents=final,
        diff_maps=trace.maps,
        uncond_norms=torch.stack(trace.uncond_norms, 1),
        mask=trace.bright_ending,
        attention={name: maps[name] for name in recorded.layers} if recorded.all_tokens else {},
        columns={
            n: layer_columns([c.unflatten(1, map_size(latents, c)) for c in columns[n]], others)
            for n in recorded.map_layers
        },
        scores=scores,
        found_maps=trace.found_maps,
    )


def token_share_stores(
    pipe: "DenoisingPipeline", detectors: Sequence["Detector"], num_steps: int
) -> dict[int, CrossAttentionStore]:
    """A store of token shares for every step that a detector reads them at."""
    wanted = {k for d in detectors if d.attention_steps is not None for k in d.attention_steps(num_steps)}
    return {k: TokenShares(pipe.map_layers) for k in sorted(wanted)}


def measure(trace: Trace) -> dict[str, torch.Tensor]:
    """Scores of the trace's detectors by row key; those of finished images are left to who has them."""
    found: dict[str, torch.Tensor] = {}
    with torch.compiler.set_stance("force_eager"):  # a compiled UNet has no forward derivative
        for detector in trace.detectors:
            if not detector.of_images:
                found |= detector.function(trace)
    return found


def end_and_padding(maps: torch.Tensor, recorded: Recorded, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The end token's map out of a store and, where it has it, the padding's, each (images, height * width)."""
    has_padding = bool(recorded.map_layers)
    if recorded.all_tokens:
        end = token_column(maps, tokens)
        return (end, padding_sum(maps, tokens)) if has_padding else (end,)
    return tuple(maps.unbind(2)) if has_padding else (maps,)


def layer_columns(maps: Sequence[torch.Tensor], others: Sequence[str]) -> LayerColumns:
    """What a store kept of a layer, by name."""
    end, padding, *raw = maps
    return LayerColumns(end, padding, dict(zip(others, raw, strict=True)))


def map_size(latents: torch.Tensor, column: torch.Tensor) -> tuple[int, int]:
    """Height and width of an attention map (images, positions) with the latent's aspect ratio."""
    height, width = latents.shape[-2:]
    factor = round((height * width / column.shape[1]) ** 0.5)
    return height // factor, width // factor
