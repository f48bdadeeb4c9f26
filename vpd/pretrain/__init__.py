"""Train a small latent diffusion model from captioned pictures: autoencoder, then UNet and text."""

from __future__ import annotations

from vpd.pretrain.autoencoder import train_autoencoder
from vpd.pretrain.denoiser import train_denoiser
from vpd.pretrain.loop import Plan
from vpd.pretrain.pictures import CaptionedPictures
from vpd.pretrain.pipeline import save_pipeline

__all__ = ["CaptionedPictures", "Plan", "save_pipeline", "train_autoencoder", "train_denoiser"]
