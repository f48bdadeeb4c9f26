"""Which weights of a segmenter no optimizer step changes, and how those are known again.

They are not saved where they can be had again from their source; what is kept of them is a digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from ris.models import VPDRefer

PRETRAINED = ("backbone.unet.", "backbone.vae.", "backbone.text_encoder.")


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and up to 1024 evenly spaced values of every tensor (float32)."""
    digest = hashlib.sha256()
    names = {name.replace(".base_layer", ""): name for name in state}
    for plain in sorted(names):
        flat = state[names[plain]].detach().flatten()
        values = flat[:: max(1, flat.numel() // 1024)][:1024].float().cpu().numpy()
        digest.update(f"{plain}{tuple(state[names[plain]].shape)}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def frozen_names(model: VPDRefer) -> set[str]:
    """Weights of the text-to-image model that no optimizer step changes, neither this run's nor
    that of the stage it began with."""
    return {
        name
        for name, value in model.named_parameters(remove_duplicate=True)
        if name.startswith(PRETRAINED) and not value.requires_grad and name not in model.tuned
    }


def has_no_home(model: VPDRefer) -> bool:
    """Whether the frozen weights cannot be found again where they came from, and are saved too."""
    return model.backbone.source.startswith("random")
