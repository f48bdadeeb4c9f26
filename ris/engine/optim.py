"""Optimizer, schedule and precision of the published recipe.

Source: wl-zhao/VPD `refer/`: AdamW, weight decay 1e-2, poly decay of power 0.9 per iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from ris.errors import OptionError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


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


class AutocastOptimWrapper(OptimWrapper):
    """An OptimWrapper whose forward pass runs under autocast on the model's own device.

    mmengine's AmpOptimWrapper refuses CPUs. bfloat16 has float32's range, so no loss scaler.
    """

    def __init__(self, *args: Any, device: str, dtype: torch.dtype | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.device, self.dtype = device, dtype

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), self._autocast():
            yield


def build_optimizer(model: nn.Module, settings: dict[str, Any], device: str) -> OptimWrapper:
    """AdamW in an optim wrapper.

    settings: lr, weight_decay, amsgrad, precision (`fp32` | `bf16`), clip (max gradient norm or
    None), accumulate (batches an optimizer step).
    """
    precision = settings["precision"]
    if precision not in PRECISIONS:
        raise OptionError(f"precision {precision!r} is unknown; choose {' or '.join(PRECISIONS)}")
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings["weight_decay"]),
        lr=settings["lr"],
        amsgrad=settings["amsgrad"],
        fused=True,
    )
    clip = settings.get("clip")
    return AutocastOptimWrapper(
        optimizer,
        accumulative_counts=settings.get("accumulate", 1),
        clip_grad={"max_norm": clip} if clip else None,
        device=device,
        dtype=PRECISIONS[precision],
    )


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
