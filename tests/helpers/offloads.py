"""Models offloaded from the CPU to the CPU: the hooks are those of a GPU, and layers hold no weights until called."""

import torch
from accelerate import cpu_offload, cpu_offload_with_hook

from memorization.models.families import parts_with_weights


def offloaded(pipe, offload):
    """With the hooks that diffusers gives, which itself takes no "cpu" without a number."""
    parts, device, hook = parts_with_weights(pipe), torch.device("cpu"), None
    for name in pipe.model_cpu_offload_seq.split("->") if offload == "model" else ():
        if name in parts:
            hook = cpu_offload_with_hook(parts[name], device, prev_module_hook=hook)[1]
    for part in parts.values() if offload == "sequential" else ():
        cpu_offload(part, device, offload_buffers=len(part._parameters) > 0)
    return pipe
