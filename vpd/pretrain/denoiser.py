"""UNet and text encoder, trained together to predict the noise in a latent, given a caption.

Shapes: N pictures, B a batch, c latent channels, h w latent cells, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from vpd.pretrain.loop import Plan, Report, run
from vpd.text import tokenize

# Stable Diffusion's noise schedule.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def train_denoiser(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    latents: Tensor,
    captions: list[list[str]],
    plan: Plan,
    folder: Path,
    *,
    sample: Callable[[int], None] | None = None,
    progress: bool = True,
) -> Report:
    """Train both in place; ``latents`` float [N, c, h, w] with one list of captions each.

    Plan options: ``lengths`` (token lengths a batch is padded or cut to, drawn at random),
    ``dropout`` (share of captions replaced by the empty one, for classifier-free guidance),
    ``snr_gamma`` (bound of the min-SNR weight, Hang et al. 2023).
    """
    device = next(unet.parameters()).device
    lengths = [int(length) for length in plan.options["lengths"]]
    dropout, gamma = float(plan.options["dropout"]), float(plan.options["snr_gamma"])
    ids, first, counts = tokens(tokenizer, captions, max(lengths))
    empty = tokenizer("", padding="max_length", max_length=max(lengths), return_tensors="pt")
    nothing = empty["input_ids"]
    end = int(tokenizer.eos_token_id)
    scheduler = DDPMScheduler(**SCHEDULE)
    latents = latents.half().to(device)

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (plan.batch,), generator=generator)
        which = (torch.rand(plan.batch, generator=generator) * counts[chosen]).long()
        length = lengths[int(torch.randint(len(lengths), (1,), generator=generator))]
        words = ids[first[chosen] + which, :length].clone()
        words[:, -1] = end
        dropped = torch.rand(plan.batch, 1, generator=generator) < dropout
        words = torch.where(dropped, nothing[:, :length], words).to(device)
        clean = latents[chosen.to(device)].float()
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.randint(1000, (plan.batch,), generator=generator).to(device)
        noisy = scheduler.add_noise(clean, noise, times)
        context = text_encoder(input_ids=words).last_hidden_state
        error = (unet(noisy, times, context).sample.float() - noise).square().mean(dim=(1, 2, 3))
        snr = compute_snr(scheduler, times)
        return (error * snr.clamp(max=gamma) / snr).mean()

    model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    return run("denoiser", model, plan, loss, folder, sample=sample, progress=progress)


def tokens(
    tokenizer: CLIPTokenizer, captions: list[list[str]], length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """ids int64 [captions, T] of all captions; each picture's first row and its number of rows."""
    flat = [caption for texts in captions for caption in texts]
    counts = torch.tensor([len(texts) for texts in captions])
    return tokenize(tokenizer, flat, length), counts.cumsum(0) - counts, counts
