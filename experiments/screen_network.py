"""How much of a screen's time is not the network, on a model of SD v1.4's shape with random weights."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

import detect_mem
from experiments.cost.jobs import random_sd14
from experiments.runs import quietly
from memorization.bundled import PLANTED
from memorization.tables import format_table


@contextlib.contextmanager
def seconds_inside(module: nn.Module) -> Iterator[list[float]]:
    """Gathers the seconds of each call of a module while the context is open; on a GPU the device is waited for."""
    seconds: list[float] = []
    started = [0.0]

    def synchronized() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def before(*_: object) -> None:
        started[0] = synchronized()

    def after(*_: object) -> None:
        seconds.append(synchronized() - started[0])

    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def measure_network(batch_sizes: Sequence[int], prompts: int, work: Path) -> list[dict[str, Any]]:
    """Seconds of a screen of one image a prompt, of its UNet and of its text encoder, at each batch size."""
    pipe, records = random_sd14(), []
    for batch_size in tqdm(batch_sizes, desc="network", unit="batch size"):
        with seconds_inside(pipe.unet) as unet, seconds_inside(pipe.text_encoder) as text:
            started = time.perf_counter()
            with quietly():
                run = detect_mem.run(
                    pipe=pipe,
                    output_dir=work / f"network_{batch_size}",
                    dataset=str(PLANTED / "planted_ordinary.jsonl"),
                    screen=True,
                    seed_mode="shared",
                    num_images_per_prompt=1,
                    batch_size=batch_size,
                    end=prompts,
                )
            total = time.perf_counter() - started
        records.append(
            {
                "batch_size": batch_size,
                "prompts": len(run.rows),
                "seconds": total,
                "unet": sum(unet),
                "text_encoder": sum(text),
            }
        )
    return records


def network_table(results: dict[str, Any]) -> str:
    rows = []
    for r in results.get("network", []):
        rest = r["seconds"] - r["unet"] - r["text_encoder"]
        each = [r[part] / r["prompts"] for part in ("seconds", "unet", "text_encoder")]
        shares = [f"{100 * s / r['seconds']:.2f} %" for s in (r["seconds"] - r["unet"], rest)]
        rows.append([r["batch_size"], r["prompts"], *(f"{s:.3f}" for s in each), f"{rest / r['prompts']:.4f}", *shares])
    of_each = ["s a prompt", "of the UNet", "of the text encoder", "of all the rest"]
    headers = ["batch size", "prompts", *of_each, "not the UNet", "neither"]
    return format_table(headers, rows) if rows else ""
