"""The one training loop of pre-training: AdamW, warm-up and cosine, EMA, progress, resume.

What a step draws depends on the seed and the step's number alone, so a resumed run draws what an
unbroken one would have drawn and needs no saved generator.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from vpd import files
from vpd.errors import WeightsError


@dataclass(frozen=True)
class Plan:
    """How one part is trained; ``options`` are its own, and a resumed run must repeat all."""

    steps: int
    batch: int
    lr: float
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    precision: str = "auto"
    log_every: int = 50
    save_every: int = 500
    sample_every: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """What a run was: optimizer steps, seconds of work, (step, mean loss since the last) pairs."""

    steps: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 where the hardware multiplies it natively (`auto`), or as told: fp32, bf16."""
    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported()
            if device.type == "cuda"
            else torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
        precision = "bf16" if native else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def run(
    name: str,
    model: nn.Module,
    plan: Plan,
    loss: Callable[[torch.Generator], Tensor],
    folder: Path,
    *,
    sample: Callable[[int], None] | None = None,
    progress: bool = True,
) -> Report:
    """Train ``model`` in place and leave it with its averaged weights.

    ``loss`` gets the step's own generator (CPU) and returns a scalar. The state lies in
    ``folder/<name>.pt``, replaced as a whole every ``save_every`` steps and on interruption; when
    it is there, the run goes on from it. ``sample`` is called with averaged weights.

    Raises:
        WeightsError: the state is damaged or belongs to another plan.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.AdamW(
        parameters, lr=plan.lr, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, plan.warmup, plan.steps)
    average = EMAModel(parameters, decay=plan.ema, use_ema_warmup=True, power=0.75)
    report = Report()
    path = folder / f"{name}.pt"

    def save() -> None:
        state = {
            "plan": repr(plan),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "average": average.state_dict(),
            "report": vars(report),
        }
        draft = path.with_suffix(".partial")
        torch.save(state, draft)
        os.replace(draft, path)

    if path.is_file():
        state = files.load(path)
        if state["plan"] != repr(plan):
            raise WeightsError(
                f"{path} belongs to another plan ({state['plan']}); this one is {plan}; remove "
                "the file or choose another folder"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        average.load_state_dict(state["average"])
        average.to(device=device)
        report = Report(**state["report"])
    folder.mkdir(parents=True, exist_ok=True)
    model.train()
    total, counted = torch.zeros((), device=device), 0  # since the last mean, or since the start
    bar = tqdm(total=plan.steps, initial=report.steps, desc=name, disable=not progress)
    started, before = time.monotonic(), report.seconds
    try:
        while report.steps < plan.steps:
            generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + report.steps)
            with autocast(device, plan.precision):
                value = loss(generator)
            value.backward()
            nn.utils.clip_grad_norm_(parameters, plan.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            average.step(parameters)
            total += value.detach()
            counted += 1
            report.steps += 1
            report.seconds = before + time.monotonic() - started
            bar.update()
            if report.steps % plan.log_every == 0:
                report.losses.append((report.steps, float(total) / counted))
                total.zero_()
                counted = 0
                bar.set_postfix(loss=f"{report.losses[-1][1]:.4f}")
            if report.steps % plan.save_every == 0:
                save()
            if sample and plan.sample_every and report.steps % plan.sample_every == 0:
                average.store(parameters)
                average.copy_to(parameters)
                sample(report.steps)
                average.restore(parameters)
    finally:
        bar.close()
        save()
    average.copy_to(parameters)
    model.eval()
    return report
