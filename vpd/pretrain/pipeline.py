"""The trained parts as a diffusers pipeline: saved, and asked for sample pictures."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from vpd.pretrain.denoiser import SCHEDULE


def pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """The parts as a StableDiffusionPipeline with a DDIM sampler and no safety checker."""
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_pipeline(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline in half precision, as a whole or not at all; the parts are left as are."""
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    parts = (pipe.vae, pipe.text_encoder, pipe.unet)
    kept = [{key: value.clone() for key, value in part.state_dict().items()} for part in parts]
    try:
        for part in parts:
            part.half()
        pipe.save_pretrained(draft, safe_serialization=True)
        # transformers would load the text encoder in half precision, diffusers the rest in single.
        card = draft / "text_encoder" / "config.json"
        card.write_text(json.dumps({**json.loads(card.read_text()), "dtype": "float32"}, indent=2))
    finally:
        for part, state in zip(parts, kept, strict=True):
            part.float().load_state_dict(state)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(draft, folder)
    shutil.rmtree(old, ignore_errors=True)


@torch.no_grad()
def draw(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    size: int,
    steps: int = 30,
    guidance: float = 4.0,
    seed: int = 0,
    batch: int = 32,
) -> list[Image.Image]:
    """One picture of ``size`` x ``size`` pixels a prompt; the same for the same seed and place."""
    pipe.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        found = pipe(
            part,
            height=size,
            width=size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
        )
        pictures += found.images
    return pictures
