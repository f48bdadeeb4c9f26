"""Optimizer, schedule and precision of the published recipe.

Source: wl-zhao/VPD `refer/`: AdamW, weight decay 1e-2, poly decay of power 0.9 per iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import nn

from ris.engine.guard import GuardedOptimWrapper
from ris.engine.in_backward import InBackwardOptimWrapper
from ris.engine.muon import MuonAdamW, matrices
from ris.errors import OptionError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def precision(name: str) -> torch.dtype | None:
    """The dtype of autocast; None is none. Raises OptionError for another name."""
    if name not in PRECISIONS:
        raise OptionError(f"precision {name!r} is unknown; choose {' or '.join(PRECISIONS)}")
    return PRECISIONS[name]


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    lr: float = 0.0,
    scale: Mapping[str, float] | None = None,
    only: Callable[[nn.Parameter], bool] = lambda parameter: True,
) -> list[dict[str, Any]]:
    """All trained parameters that `only` takes, those without weight decay apart; with `scale`,
    also apart those whose name begins with one of its keys, at that many times `lr`.

    The published code means to spare every norm, and by its name test spares those inside the
    UNet's transformer blocks only (128 tensors of Stable Diffusion 1.5); residual-block norms, the
    head's batch norms and gamma are decayed. Its `lr_scale` entries are never read.

    Raises OptionError for a key that no trained parameter's name begins with.
    """
    factors = dict(scale or {})
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(weight_decay, 1.0): []}
    met = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = ".unet." in name and ".attentions." in name and "norm" in name
        starts = [start for start in factors if name.startswith(start)]
        met.update(starts)
        if not only(parameter):
            continue
        factor = factors[max(starts, key=len)] if starts else 1.0
        groups.setdefault((0.0 if inside else weight_decay, factor), []).append(parameter)
    if silent := sorted(factors.keys() - met):
        raise OptionError(
            f"optim.lr_scale names {', '.join(silent)}, with which no trained parameter's name "
            "begins; names look like head.mask.first.0.0.weight"
        )
    return [
        {
            "params": members,
            "weight_decay": decay,
            **({} if factor == 1.0 else {"lr": lr * factor}),
        }
        for (decay, factor), members in groups.items()
        if members or factor == 1.0
    ]


def of_mode(settings: Mapping[str, Any], unet_mode: str) -> dict[str, Any]:
    """The settings with `unet_scale` made an entry of `lr_scale`, where the UNet's own weights are
    trained ('finetune'). An entry that was given for them stays as it was given.

    Raises OptionError for a factor that is not more than 0.
    """
    factor = settings["unet_scale"]
    if factor <= 0:
        raise OptionError(
            f"optim.unet_scale is a factor on the learning rate, more than 0; got {factor}; "
            "--unet_mode frozen leaves the UNet as it is"
        )
    own = {"backbone.unet.": factor} if unet_mode == "finetune" and factor != 1.0 else {}
    return {**settings, "lr_scale": {**own, **settings["lr_scale"]}}


def learning_rate(settings: Mapping[str, Any], total_batch: int, entry: str = "lr") -> float:
    """The rate for this total batch: `entry`, scaled in proportion where `lr_batch` says which
    total batch the rates are meant for (None: they are meant for any)."""
    if not settings["lr_batch"]:
        return float(settings[entry])
    return float(settings[entry] * total_batch / settings["lr_batch"])


def at_batch(settings: Mapping[str, Any], total_batch: int) -> dict[str, Any]:
    """The settings with every rate they have (`lr`, `muon`) as it is for this total batch."""
    rates = [entry for entry in ("lr", "muon") if settings.get(entry)]
    return {**settings, **{entry: learning_rate(settings, total_batch, entry) for entry in rates}}


def build_optimizer(model: nn.Module, settings: dict[str, Any], device: str) -> GuardedOptimWrapper:
    """Fused AdamW, beside it Muon if asked for, in an optim wrapper that skips steps whose gradient
    is not finite.

    settings: lr, weight_decay, amsgrad, precision (`fp32` | `bf16`), clip (max gradient norm or
    None), accumulate (batches an optimizer step), in_backward (`InBackwardOptimWrapper`), lr_scale
    (see `parameter_groups`), muon (learning rate for the head's matrices, see `MuonAdamW`; None
    leaves them to AdamW).

    Raises OptionError for what cannot be.
    """
    dtype = precision(settings["precision"])
    decay, scale, rate = settings["weight_decay"], settings.get("lr_scale"), settings.get("muon")
    if rate is not None and rate <= 0:
        raise OptionError(f"optim.muon is a learning rate, more than 0, or None; got {rate}")
    apart = {id(matrix) for matrix in matrices(model)} if rate else set()
    if rate and not apart:
        MMLogger.get_current_instance().info(
            "optim.muon: this head has no linear or attention layers; AdamW updates all of it"
        )
    groups = parameter_groups(model, decay, settings["lr"], scale, lambda p: id(p) not in apart)
    options = {"lr": settings["lr"], "amsgrad": settings["amsgrad"], "fused": True}
    optimizer: torch.optim.Optimizer
    if rate and apart:
        own = parameter_groups(model, decay, rate, scale, lambda p: id(p) in apart)
        own = [group for group in own if group["params"]]
        optimizer = MuonAdamW(groups, own, rate, **options)
    else:
        optimizer = torch.optim.AdamW(groups, **options)
    wrapper = InBackwardOptimWrapper if settings.get("in_backward") else GuardedOptimWrapper
    return wrapper(
        optimizer,
        accumulative_counts=settings.get("accumulate", 1),
        clip=settings.get("clip"),
        device=device,
        dtype=dtype,
        running=counting_norms(model),
    )


def counting_norms(model: nn.Module) -> list[nn.Module]:
    """Batch norms whose statistics a forward pass in training changes."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [norm for norm in norms if norm.track_running_stats]


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


def schedule(
    settings: Mapping[str, Any], iterations: int, warmup: int, epoch: int
) -> list[dict[str, Any]]:
    """The schedule that the settings name, stepped every iteration.

    'poly': VPD's, see `poly_schedule`. RefTR's: 'step', a tenth of the rate from each of the epochs
    `lr_drop` on; 'cosine', down to a hundredth of it. Both after `warmup` iterations of linear
    rise, or `warmup_epochs` if that is more. `epoch`: iterations of one.

    Raises OptionError for another name.
    """
    kind = settings.get("schedule", "poly")
    if kind == "poly":
        return poly_schedule(iterations, settings["power"], warmup)
    warmup = max(warmup, min(int(settings.get("warmup_epochs", 0) * epoch), iterations // 2))
    steps: dict[str, Any] = {"by_epoch": False}
    if kind == "step":
        drops = [int(drop * epoch) for drop in settings["lr_drop"]]
        steps |= {"type": "MultiStepLR", "milestones": drops, "gamma": 0.1}
    elif kind == "cosine":
        steps |= {
            "type": "CosineAnnealingLR",
            "T_max": iterations - warmup,
            "eta_min_ratio": 0.01,
            "begin": warmup,
            "end": iterations,
        }
    else:
        raise OptionError(f"optim.schedule {kind!r} is unknown; choose poly, step or cosine")
    if not warmup:
        return [steps]
    rise = {"type": "LinearLR", "start_factor": 0.02, "by_epoch": False, "begin": 0, "end": warmup}
    return [rise, steps]
