"""Families of models that our own loop generates with, told apart before anything is loaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SDXL_KEY = "conditioner.embedders."  # begins the text encoders' weights in one file of SDXL
# What one file of Stable Diffusion 3 or of Flux.1 has, behind `IN_FILE` where it holds more than the transformer.
SD3_KEYS = {"joint_blocks.0.context_block.adaLN_modulation.1.bias"}
FLUX_KEYS = {"double_blocks.0.img_attn.norm.key_norm.scale", "vector_in.in_layer.weight"}
IN_FILE = "model.diffusion_model."
VAE_IN_FILE = ("first_stage_model.", "vae.")
UNET, TRANSFORMER = "unet", "transformer"


@dataclass(frozen=True)
class Family:
    """What a folder in diffusers' layout holds.

    Attributes:
        name: in messages.
        text_encoders, tokenizers: its parts, by their folders.
        optional: those of them that may be absent.
        denoiser, denoiser_class: its UNet or transformer, by its folder and its class in diffusers.
        added_conditions: `addition_embed_type` of its UNet.
        packing: latent channels that a channel of its transformer's input is of.
        pooled: config values that are the widths of its encoders' pooled features.
        half: dtype that it computes in on a GPU.
        key_of_encoder: of text encoders that one file may hold beside a transformer, a weight by which diffusers knows
            them, by their folders.
    """

    name: str
    text_encoders: tuple[str, ...] = ("text_encoder",)
    tokenizers: tuple[str, ...] = ("tokenizer",)
    optional: tuple[str, ...] = ()
    denoiser: str = UNET
    denoiser_class: str = "UNet2DConditionModel"
    added_conditions: str | None = None
    packing: int = 1
    pooled: tuple[str, ...] = ()
    half: str = "float16"
    key_of_encoder: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders with weights."""
        return (self.denoiser, "vae", *self.text_encoders)

    def parts_of(self, index: Mapping[str, Any]) -> list[str]:
        """The parts that a model of this family has, by its model_index.json."""
        return [part for part in self.parts if part not in self.optional or class_name(index.get(part)) is not None]


@dataclass(frozen=True)
class ModelFiles:
    """What a model's files say of it before they are loaded.

    Attributes:
        index: its model_index.json; empty of a single file that goes with no folder's configs.
        variant: of its weights, that has to be asked for, as fp16; None of ordinary ones, and of a hub id.
        in_file: parts that a transformer's single file holds, so that a folder's are not read.
    """

    family: Family
    index: Mapping[str, Any] = field(default_factory=dict)
    variant: str | None = None
    in_file: frozenset[str] = frozenset()


CLIP_L, CLIP_G = (f"text_encoders.clip_{k}.transformer.text_model.embeddings.position_embedding.weight" for k in "lg")
T5XXL = "text_encoders.t5xxl.transformer.shared.weight"
SD = Family("Stable Diffusion 1 and 2")
SDXL = Family("SDXL", ("text_encoder", "text_encoder_2"), ("tokenizer", "tokenizer_2"), added_conditions="text_time")
SD3 = Family(
    "Stable Diffusion 3",
    ("text_encoder", "text_encoder_2", "text_encoder_3"),
    ("tokenizer", "tokenizer_2", "tokenizer_3"),
    optional=("text_encoder_3", "tokenizer_3"),
    denoiser=TRANSFORMER,
    denoiser_class="SD3Transformer2DModel",
    pooled=("projection_dim", "projection_dim"),
    half="bfloat16",
    key_of_encoder={"text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5XXL},
)
FLUX = Family(
    "Flux.1",
    ("text_encoder", "text_encoder_2"),
    ("tokenizer", "tokenizer_2"),
    denoiser=TRANSFORMER,
    denoiser_class="FluxTransformer2DModel",
    packing=4,
    pooled=("hidden_size",),
    half="bfloat16",
    key_of_encoder={"text_encoder": CLIP_L, "text_encoder_2": T5XXL},
)
FAMILIES = (SD, SDXL, SD3, FLUX)
PIPELINES = {
    SD3: "StableDiffusion3Pipeline",
    FLUX: "FluxPipeline",
}  # of families with a transformer, what their pipelines' names end with


def parts_with_weights(pipe: Any) -> dict[str, Any]:
    """The modules of a loaded pipeline of any family, by the names of their folders."""
    names = dict.fromkeys(name for family in FAMILIES for name in family.parts)
    return {name: part for name in names if (part := getattr(pipe, name, None)) is not None}


def family_of_index(index: Mapping[str, Any]) -> Family | None:
    """The family by model_index.json; None of any other, such as SDXL's refiner, which has no first text encoder."""
    if class_name(index.get(TRANSFORMER)) is not None:
        return next((f for f, end in PIPELINES.items() if str(index.get("_class_name")).endswith(end)), None)
    kinds = [class_name(index.get(name)) for name in ("unet", "text_encoder", "text_encoder_2")]
    if kinds == ["UNet2DConditionModel", "CLIPTextModel", None]:
        return SD
    return SDXL if kinds == ["UNet2DConditionModel", "CLIPTextModel", "CLIPTextModelWithProjection"] else None


def class_name(part: object) -> object:
    """What model_index.json calls a part, out of its (library, class); None of a part that is not there."""
    return part[1] if isinstance(part, list | tuple) and len(part) == 2 else part


def family_of_keys(keys: Iterable[str]) -> Family:
    """The family of a checkpoint in one file, by the names of its weights; Stable Diffusion 1 and 2 if of no other."""
    names = {key.removeprefix(IN_FILE) for key in keys}
    for family, needed in ((SD3, SD3_KEYS), (FLUX, FLUX_KEYS)):
        if needed <= names:
            return family
    return SDXL if any(key.startswith(SDXL_KEY) for key in names) else SD
