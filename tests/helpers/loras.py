"""LoRAs with random weights, made by peft: in diffusers' keys and in those that kohya's trainers write."""

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import T5EncoderModel

from helpers.original_layout import unet_keys
from memorization.models import adapters
from memorization.models.families import parts_with_weights

RANK, ALPHA = 2, 6
TARGETS = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"],
    "transformer": ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj"],
    "text_encoder": ["q_proj", "v_proj"],
    "text_encoder_2": ["q_proj", "v_proj"],
}


def make_loras(pipe, folder):
    """Files by format, and the LoRA's matrices by part and key: on the UNet, or transformer, and on CLIP where
    transformers finds a peft that is new enough for it. The pipeline keeps its adapters and is of no use afterwards."""
    generator, states = torch.Generator().manual_seed(3), {}
    for name in parts_with_weights(pipe).keys() & TARGETS.keys():
        part = getattr(pipe, name)
        if isinstance(part, T5EncoderModel):  # of which diffusers reads none
            continue
        try:
            part.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS[name]))
        except ValueError as error:
            assert "PEFT" in str(error) and name.startswith("text_encoder")
            continue
        for key, weight in part.named_parameters():
            if "lora_" in key:
                weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
        states[name] = get_peft_model_state_dict(part)
    layers = {f"{name}_lora_layers": state for name, state in states.items()}
    told = {f"{name}_lora_adapter_metadata": getattr(pipe, name).peft_config["default"].to_dict() for name in states}
    pipe.save_lora_weights(folder, **layers, **told)
    files = {"diffusers": folder / adapters.LORA_FILE}
    if "unet" in states:
        files["kohya"] = folder / "kohya.safetensors"
        save_file(kohya_state(pipe, states), files["kohya"])
    return files, states


def kohya_state(pipe, states):
    """Keys of kohya's trainers, which have SDXL's UNet in the layout of the original code."""
    found, is_xl = {}, hasattr(pipe, "text_encoder_2")
    starts = {"unet": "unet", "text_encoder": "te1" if is_xl else "te", "text_encoder_2": "te2"}
    for name, state in states.items():
        for key, weight in state.items():
            layer, end = key.rsplit(".lora_", 1)
            if name == "unet":
                layer = unet_keys(pipe, [layer])[layer] if is_xl else layer
            else:
                layer = f"text_model.{layer.removeprefix('text_model.')}"
            stem = f"lora_{starts[name]}_{layer.replace('.', '_')}"
            found[f"{stem}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = weight
            found[f"{stem}.alpha"] = torch.tensor(float(ALPHA))
    return found


def merge_by_hand(pipe, states, scale):
    """Add the product of a LoRA's matrices to the weights of a pipeline's layers."""
    for name, state in states.items():
        part = getattr(pipe, name)
        for key, down in state.items():
            if key.endswith(".lora_A.weight"):
                up = state[key.replace(".lora_A.", ".lora_B.")]
                part.get_submodule(key.removesuffix(".lora_A.weight")).weight.data += scale * ALPHA / RANK * up @ down
