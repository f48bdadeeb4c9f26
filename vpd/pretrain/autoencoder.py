"""The autoencoder: pictures to latents of an eighth of their side and back.

Shapes: B crops of s x s pixels, c latent channels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from vpd.pretrain.loop import Plan, Report, autocast, run
from vpd.pretrain.pictures import CaptionedPictures, normalised


def train_autoencoder(
    vae: AutoencoderKL, data: CaptionedPictures, plan: Plan, folder: Path, progress: bool = True
) -> Report:
    """Train in place on random crops: absolute and squared error, and a slight pull to the prior.

    Plan options: ``crop`` (pixels, a multiple of 8), ``kl`` (weight of the divergence, per pixel).
    Ends with latents of mean 0 and standard deviation 1 in every channel, so that the scaling
    factor of the saved model is 1 and a latent needs no factor anywhere.
    """
    device = next(vae.parameters()).device
    crop, weight = int(plan.options["crop"]), float(plan.options["kl"])
    size = data.pictures.shape[-1]

    def loss(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(data.pictures), (plan.batch,), generator=generator)
        corners = torch.randint(size - crop + 1, (plan.batch, 2), generator=generator)
        crops = torch.stack(
            [
                data.pictures[i, :, y : y + crop, x : x + crop]
                for i, (y, x) in zip(chosen.tolist(), corners.tolist(), strict=True)
            ]
        )
        truth = normalised(crops, device)
        posterior = vae.encode(truth).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        found = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        return (
            F.l1_loss(found, truth)
            + F.mse_loss(found, truth)
            + weight * posterior.kl().float().mean() / crop**2
        )

    report = run("autoencoder", vae, plan, loss, folder, progress=progress)
    normalise_latents(vae, encode_all(vae, data.pictures[:2048]))
    return report


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: Tensor, batch: int = 64) -> Tensor:
    """uint8 [N, 3, S, S] -> float32 [N, c, S / 8, S / 8] on the CPU: the posterior's mode."""
    device = next(vae.parameters()).device
    with autocast(device, "auto"):
        parts = [
            vae.encode(normalised(part, device)).latent_dist.mode().float().cpu()
            for part in pictures.split(batch)
        ]
    return torch.cat(parts)


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, latents: Tensor) -> None:
    """Fold the latents' mean and deviation per channel into the two 1 x 1 convolutions."""
    mean = latents.mean(dim=(0, 2, 3)).to(vae.device)
    std = latents.std(dim=(0, 2, 3)).clamp(min=1e-6).to(vae.device)
    into, out = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std[None, :, None, None]
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()  # the second half is the log variance
    vae.register_to_config(scaling_factor=1.0)
