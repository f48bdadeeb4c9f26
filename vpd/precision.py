"""Weights kept at the precision that autocast would round them to anyway."""

from __future__ import annotations

import torch
from torch import nn

# What autocast runs in low precision with weights of its own; norms stay in float32.
_LOWERED = (nn.Linear, nn.Conv1d, nn.Conv2d)


def lower(module: nn.Module, dtype: torch.dtype) -> int:
    """Keep the weights of linear and convolutional layers in `dtype`, in place.

    Under `torch.autocast` of the same dtype the outputs are the same bits, for autocast rounds
    these weights in every pass; kept rounded they take half the memory and the pass is spared the
    work. Without autocast such a module no longer runs on float32 inputs. Layers that train are
    left alone: an optimizer needs its weights in full.

    Returns the bytes saved. float32 does nothing.
    """
    if dtype == torch.float32:
        return 0
    saved = 0
    for layer in module.modules():
        if not isinstance(layer, _LOWERED):
            continue
        own = list(layer.parameters(recurse=False))
        if any(parameter.requires_grad for parameter in own):
            continue
        saved += sum(parameter.nbytes for parameter in own)
        layer.to(dtype)
        saved -= sum(parameter.nbytes for parameter in own)
    return saved
