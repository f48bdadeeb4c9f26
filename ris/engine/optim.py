"""Optimizer, schedule and precision of the published recipe.

Source: wl-zhao/VPD `refer/`: AdamW, weight decay 1e-2, poly decay of power 0.9 per iteration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ris.engine.guard import GuardedOptimWrapper
from ris.engine.in_backward import InBackwardOptimWrapper
from ris.errors import OptionError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def precision(name: str) -> torch.dtype | None:
    """The dtype of autocast; None is none. Raises OptionError for another name."""
    if name not in PRECISIONS:
        raise OptionError(f"precision {name!r} is unknown; choose {' or '.join(PRECISIONS)}")
    return PRECISIONS[name]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: all trained parameters, and those without weight decay.

    The published code means to spare every norm, and by its name test spares those inside the
    UNet's transformer blocks only (128 tensors of Stable Diffusion 1.5); residual-block norms, the
    head's batch norms and gamma are decayed. Its `lr_scale` entries are never read.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = ".unet." in name and ".attentions." in name and "norm" in name
        (spared if inside else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    return groups


def learning_rate(settings: Mapping[str, Any], total_batch: int) -> float:
    """The rate for this total batch: `lr`, scaled in proportion where `lr_batch` says which total
    batch `lr` is meant for (None: it is meant for any)."""
    if not settings["lr_batch"]:
        return float(settings["lr"])
    return float(settings["lr"] * total_batch / settings["lr_batch"])


def build_optimizer(model: nn.Module, settings: dict[str, Any], device: str) -> GuardedOptimWrapper:
    """Fused AdamW in an optim wrapper that skips steps whose gradient is not finite.

    settings: lr, weight_decay, amsgrad, precision (`fp32` | `bf16`), clip (max gradient norm or
    None), accumulate (batches an optimizer step), in_backward (`InBackwardOptimWrapper`).
    """
    dtype = precision(settings["precision"])
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings["weight_decay"]),
        lr=settings["lr"],
        amsgrad=settings["amsgrad"],
        fused=True,
    )
    wrapper = InBackwardOptimWrapper if settings.get("in_backward") else GuardedOptimWrapper
    return wrapper(
        optimizer,
        accumulative_counts=settings.get("accumulate", 1),
        clip=settings.get("clip"),
        device=device,
        dtype=dtype,
        running=running_statistics(model),
    )


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Buffers that a forward pass in training changes: those of batch norms that are trained."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    found = ((norm.running_mean, norm.running_var) for norm in norms if norm.track_running_stats)
    return [buffer for pair in found for buffer in pair if buffer is not None]


def poly_schedule(iterations: int, power: float, warmup: int = 0) -> list[dict[str, Any]]:
    """lr * (1 - step / iterations) ** power, stepped every iteration.

    warmup: iterations of linear rise before it (the published recipe has none).
    """
    poly = {
        "type": "PolyLR",
        "power": power,
        "eta_min": 0.0,
        "by_epoch": False,
        "begin": warmup,
        # mmengine decays over `end - begin - 1` steps; the published recipe over all of them.
        "end": iterations + 1,
    }
    if not warmup:
        return [poly]
    rise = {"type": "LinearLR", "start_factor": 0.02, "by_epoch": False, "begin": 0, "end": warmup}
    return [rise, poly]
