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


def encoders_beside(pipe, names):
    """Text encoders of a pipeline under their names in one file with a transformer.

    Args:
        names: `clip_l`, `clip_g` or `t5xxl` of each, by their folders.
    """
    state = {}
    for part, name in names.items():
        for key, value in getattr(pipe, part).state_dict().items():
            is_inner = name == "t5xxl" or key.startswith(("text_model.", "text_projection."))
            state[f"text_encoders.{name}.transformer.{key if is_inner else f'text_model.{key}'}"] = value
    return state


def vae_beside(vae, begins="first_stage_model."):
    """A VAE of one resolution under its names in one file with a transformer."""
    state = {}
    for key, value in vae.state_dict().items():
        is_projection = ".attentions." in key and key.endswith("weight") and value.ndim == 2
        state[begins + vae_key(key, 1)] = value[..., None, None] if is_projection else value
    return state


# Transformers

SD3_ENDS = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
SD3_BLOCK = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
FLUX_ENDS = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
}
FLUX_BLOCK = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out": "linear2",
}


def swapped(weight):
    """Scale and shift in the other order."""
    return torch.cat(weight.chunk(2)[::-1])


def joined(state, block, parts, end):
    return torch.cat([state[f"{block}.{part}.{end}"] for part in parts])


def sd3_state(state):
    """Weights of a transformer of Stable Diffusion 3 under the names of its authors."""
    found, last = {}, max(int(key.split(".")[1]) for key in state if key.startswith("transformer_blocks."))
    for key, value in state.items():
        if key.startswith("norm_out.linear."):
            found[key.replace("norm_out.linear", "final_layer.adaLN_modulation.1")] = swapped(value)
        elif (match := re.fullmatch(r"transformer_blocks\.(\d+)\.(.*)", key)) is None:
            found[SD3_ENDS.get(key) or renamed(key, SD3_ENDS)] = value
        elif (part := re.fullmatch(r"(attn2?)\.(to_q|add_q_proj|to_[kv]|add_[kv]_proj)\.(\w+)", match[2])) is None:
            is_swapped = int(match[1]) == last and match[2].startswith("norm1_context")
            place = f"joint_blocks.{match[1]}.{renamed(match[2], SD3_BLOCK)}"
            found[place] = swapped(value) if is_swapped else value
        elif part[2] in ("to_q", "add_q_proj"):
            side, form = ("x", "to_{}") if part[2] == "to_q" else ("context", "add_{}_proj")
            names = [f"{part[1]}.{form.format(name)}" for name in "qkv"]
            whole = joined(state, f"transformer_blocks.{match[1]}", names, part[3])
            found[f"joint_blocks.{match[1]}.{side}_block.{part[1]}.qkv.{part[3]}"] = whole
    return found


def flux_state(state):
    """Weights of a transformer of Flux.1 under the names of its authors."""
    found = {}
    for key, value in state.items():
        if key.startswith("norm_out.linear."):
            found[key.replace("norm_out.linear", "final_layer.adaLN_modulation.1")] = swapped(value)
        elif (match := re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.*)", key)) is None:
            found[renamed(key, FLUX_ENDS)] = value
        elif match[1]:
            if (part := re.fullmatch(r"attn\.to_q\.(\w+)", match[3])) is not None:
                names = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]
                whole = joined(state, f"single_transformer_blocks.{match[2]}", names, part[1])
                found[f"single_blocks.{match[2]}.linear1.{part[1]}"] = whole
            elif not re.match(r"attn\.to_[kv]|proj_mlp", match[3]):
                name = FLUX_SINGLE.get(match[3]) or renamed(match[3], FLUX_SINGLE)
                found[f"single_blocks.{match[2]}.{name}"] = value
        elif (part := re.fullmatch(r"attn\.(to_[qkv]|add_[qkv]_proj)\.(\w+)", match[3])) is None:
            name = FLUX_BLOCK.get(match[3]) or renamed(match[3], FLUX_BLOCK)
            found[f"double_blocks.{match[2]}.{name}"] = value
        elif part[1] in ("to_q", "add_q_proj"):
            side, form = ("img", "to_{}") if part[1] == "to_q" else ("txt", "add_{}_proj")
            whole = joined(state, f"transformer_blocks.{match[2]}", [f"attn.{form.format(n)}" for n in "qkv"], part[2])
            found[f"double_blocks.{match[2]}.{side}_attn.qkv.{part[2]}"] = whole
    return found
