"""VPD: a text-to-image diffusion model read as a feature extractor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpd.errors import ConfigError, TextError, VPDError, WeightsError

if TYPE_CHECKING:
    from vpd.backbone import DiffusionBackbone
    from vpd.unet import FeaturePyramid

__all__ = [
    "ConfigError",
    "DiffusionBackbone",
    "FeaturePyramid",
    "TextError",
    "VPDError",
    "WeightsError",
]

_HOMES = {"DiffusionBackbone": "vpd.backbone", "FeaturePyramid": "vpd.unet"}


def __getattr__(name: str) -> Any:
    """Import on first use: what needs no torch (errors, cleaning) must be had without it."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vpd' has no attribute {name!r}")
