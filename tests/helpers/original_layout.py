"""Stable Diffusion 1 and XL in one file, as their authors publish it: original keys out of diffusers' parts.

Written after the layout of the original UNet and autoencoder: blocks are numbered through, down and up alike.
"""

import re

import torch
from safetensors.torch import load_file, save_file

from memorization.models.families import parts_with_weights

UNET_NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
RESNET_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OPEN_CLIP_NAMES = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP_ENDS = {"embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(rest, names):
    return next((new + rest[len(old) :] for old, new in names.items() if rest.startswith(old + ".")), rest)


def unet_key(key, layers, with_attention):
    """Key of the original UNet; `with_attention` are (side, block) that have cross-attention."""
    if (found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)) is None:
        if (found := re.fullmatch(r"mid_block\.(\w+)\.(\d+)\.(.*)", key)) is None:
            return renamed(key, UNET_NAMES)
        kind, number, rest = found.groups()
        return (
            f"middle_block.1.{rest}"
            if kind == "attentions"
            else (f"middle_block.{2 * int(number)}.{renamed(rest, RESNET_NAMES)}")
        )
    side, block, kind, number, rest = found.groups()
    block, number, size = int(block), int(number), layers + 1
    if kind == "downsamplers":
        return f"input_blocks.{size * (block + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{size * block + layers}.{2 if ('up', block) in with_attention else 1}.{rest}"
    place = f"input_blocks.{size * block + number + 1}" if side == "down" else f"output_blocks.{size * block + number}"
    return f"{place}.1.{rest}" if kind == "attentions" else f"{place}.0.{renamed(rest, RESNET_NAMES)}"


def unet_keys(pipe, keys):
    """The original UNet's names of keys of diffusers', or of their beginnings, by key."""
    found = [re.match(r"(down|up)_blocks\.(\d+)\.attentions", key) for key in pipe.unet.state_dict()]
    attention = {(match[1], int(match[2])) for match in found if match}
    return {key: unet_key(key, pipe.unet.config.layers_per_block, attention) for key in keys}


def vae_key(key, blocks):
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample.", key)
    key = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", key)
    if (found := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.*)", key)) is not None:
        return f"{found[1]}.mid.attn_1.{renamed(found[2], VAE_ATTENTION)}"
    return key


def open_clip_weights(weights):
    """A text encoder as open_clip has it: queries, keys and values in one matrix, the projection turned around."""
    weights, found = {key.removeprefix("text_model."): value for key, value in weights.items()}, {}
    for key, value in weights.items():
        if key == "text_projection.weight":
            found["text_projection"] = value.T
        elif key == "embeddings.position_embedding.weight":
            found["positional_embedding"] = value
        elif (layer := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", key)) is None:
            found[renamed(key, OPEN_CLIP_ENDS)] = value
        elif (part := re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", layer[2])) is None:
            rest = renamed(layer[2], OPEN_CLIP_NAMES).replace("self_attn.", "attn.")
            found[f"transformer.resblocks.{layer[1]}.{rest}"] = value
        elif part[1] == "q":
            three = [weights[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
            found[f"transformer.resblocks.{layer[1]}.attn.in_proj_{part[2]}"] = torch.cat(three)
    return found


def text_weights(weights):
    """The text encoders' weights under the names of the original code of Stable Diffusion 1 or of SDXL."""
    is_xl = "text_encoder_2" in weights
    first = "conditioner.embedders.0" if is_xl else "cond_stage_model"
    text = {k.removeprefix("text_model."): v for k, v in weights["text_encoder"].items()}
    state = {f"{first}.transformer.text_model.{k}": v for k, v in text.items()}
    second = open_clip_weights(weights["text_encoder_2"]) if is_xl else {}
    return state | {f"conditioner.embedders.1.model.{k}": v for k, v in second.items()}


def write_single_file(folder, pipe, path):
    """The weights of a diffusers folder as one checkpoint; `pipe` is the same model, for its configs."""
    parts = parts_with_weights(pipe)
    weights = {part: load_file(next((folder / part).glob("*.safetensors"))) for part in parts}
    names = unet_keys(pipe, weights["unet"])
    state = {f"model.diffusion_model.{names[key]}": value for key, value in weights["unet"].items()}
    blocks = len(pipe.vae.config.block_out_channels)
    for key, value in weights["vae"].items():
        is_projection = ".attentions." in key and key.endswith("weight") and value.ndim == 2
        state[f"first_stage_model.{vae_key(key, blocks)}"] = value[..., None, None] if is_projection else value
    state |= text_weights(weights)
    save_file({k: v.contiguous() for k, v in state.items()}, path)
