"""A training loop that can be killed: seeded by step, saved every few hundred, logged."""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

SAVE_EVERY = 250
WARM_UP = 100  # steps

LossFunction = Callable[[torch.Generator], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def pick(generator: torch.Generator, size: int, count: int) -> list[int]:
    """`count` numbers below `size`, drawn with replacement."""
    return torch.randint(size, (count,), generator=generator).tolist()


class Stage:
    """One stage of a training: the same command after a kill goes on to the same weights.

    Attributes:
        path: of the last saved state.
        ema: running averages of the parameters, which are what the stage ends with.
        step: steps done.
        seconds: spent on them, over all calls.
    """

    def __init__(
        self,
        name: str,
        modules: Sequence[torch.nn.Module],
        num_steps: int,
        *,
        lr: float,
        ema_decay: float,
        seed: int,
        work_dir: Path,
    ):
        """
        Args:
            name: of the stage's files and log lines.
            lr: learning rate behind the warm-up; it falls along a cosine.
            ema_decay: of the averaged weights.
            seed: of what is drawn in each step.
            work_dir: folder of the checkpoint and of log.jsonl.
        """
        self.name, self.num_steps, self.lr, self.ema_decay, self.seed = name, num_steps, lr, ema_decay, seed
        self.path, self.log_path = work_dir / f"{name}.pt", work_dir / "log.jsonl"
        self.modules = torch.nn.ModuleList(modules)
        self.optimizer = torch.optim.AdamW(self.modules.parameters(), lr=lr, weight_decay=1e-4, fused=True)
        self.ema = [p.detach().clone() for p in self.modules.parameters()]
        self.step, self.seconds = 0, 0.0
        if self.path.exists():
            self.load(torch.load(self.path, weights_only=True))

    def load(self, state: dict) -> None:
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]

    def save(self) -> None:
        state = {
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.path.with_suffix(".tmp"))
        os.replace(self.path.with_suffix(".tmp"), self.path)

    def run(self, loss_fn: LossFunction) -> None:
        """Minimise `loss_fn(generator) -> (loss, numbers to log)`; ends with the averaged weights in place."""
        self.modules.train()
        totals: dict[str, float] = {}
        start = time.time()
        for step in tqdm(range(self.step, self.num_steps), initial=self.step, total=self.num_steps, desc=self.name):
            numbers = self.descend(step, loss_fn)
            for key, value in numbers.items():
                totals[key] = totals.get(key, 0.0) + value.item()
            if self.step % SAVE_EVERY == 0 or self.step == self.num_steps:
                self.seconds += time.time() - start
                self.record({k: round(v / SAVE_EVERY, 5) for k, v in totals.items()})
                self.save()
                totals, start = {}, time.time()
        for parameter, average in zip(self.modules.parameters(), self.ema, strict=True):
            parameter.data.copy_(average)
        self.modules.eval().requires_grad_(False)

    def descend(self, step: int, loss_fn: LossFunction) -> dict[str, torch.Tensor]:
        """One step of the optimizer and of the average; returns the numbers to log."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        loss, numbers = loss_fn(torch.Generator().manual_seed(self.seed * 10**8 + step))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.modules.parameters()], 1 - decay)
        self.step = step + 1
        return numbers

    def rate(self, step: int) -> float:
        """Learning rate of a step: a linear warm-up, then half a cosine down to a fiftieth."""
        warm = min(1, (step + 1) / WARM_UP)
        return self.lr * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * step / self.num_steps)))

    def record(self, numbers: dict[str, float]) -> None:
        row = {"stage": self.name, "step": self.step, "seconds": round(self.seconds), **numbers}
        with self.log_path.open("a") as log:
            log.write(json.dumps(row) + "\n")
        tqdm.write(json.dumps(row))
