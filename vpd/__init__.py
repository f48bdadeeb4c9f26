"""VPD: a text-to-image diffusion model read as a feature extractor."""

from __future__ import annotations

from vpd.backbone import DiffusionBackbone
from vpd.errors import ConfigError, TextError, VPDError, WeightsError
from vpd.unet import FeaturePyramid

__all__ = [
    "ConfigError",
    "DiffusionBackbone",
    "FeaturePyramid",
    "TextError",
    "VPDError",
    "WeightsError",
]
