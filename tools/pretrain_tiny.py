"""Train the embedded text-to-image model on RefShapes pictures and captions, and save it.

It reads pictures and captions of the train split alone: no masks, no boxes, no scene of val or of
the tests, no held-out pair of colour and shape. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from mmengine.config import Config
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from refer.shapes import generate
from vpd import untrained
from vpd.pretrain import CaptionedPictures, Plan, save_pipeline, train_autoencoder, train_denoiser
from vpd.pretrain.autoencoder import encode_all
from vpd.pretrain.card import write_card
from vpd.pretrain.pipeline import draw, pipeline
from vpd.text import clip_tokenizer
from vpd.zoo import named

REPO = Path(__file__).resolve().parents[1]
PROMPTS = (
    "a red circle", "a blue square in the top left corner", "two yellow stars",
    "a striped green heart on the left", "a white ring to the right of a purple cross",
    "a black hexagon above an orange triangle", "a dotted orange circle", "a green star",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=REPO / "configs/pretrain/tiny_t2i.py")
    parser.add_argument("--out", type=Path, default=REPO / "checkpoints/tiny-t2i")
    parser.add_argument("--work", type=Path, default=Path("work_dirs/tiny-t2i"),
                        help="data, states to resume from, samples")  # fmt: skip
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    pretrain(
        Config.fromfile(arguments.config).to_dict(),
        arguments.out,
        arguments.work,
        torch.device(arguments.device),
    )


def pretrain(config: dict[str, Any], out: Path, work: Path, device: torch.device) -> None:
    """Data, autoencoder, denoiser, folder and model card."""
    wanted = config["data"]
    info = generate(
        work / "data", train=wanted["pictures"], val=0, test_a=0, test_b=0,
        size=wanted["size"], seed=wanted["seed"], extras=True,
    )  # fmt: skip
    records = work / "data/refshapes"
    data = CaptionedPictures.read(work / "data/images/refshapes", records / "captions.json")
    torch.manual_seed(wanted["seed"])
    zoo = named("tiny")
    vae = AutoencoderKL(**zoo.vae).to(device)
    unet = UNet2DConditionModel(**zoo.unet).to(device)
    text = CLIPTextModel(CLIPTextConfig(**zoo.text)).to(device)
    untrained.wake(unet, text)  # words that are heard from the first step on
    tokenizer = copy.deepcopy(clip_tokenizer())  # the other is shared by whoever asks for it
    tokenizer.model_max_length = max(config["denoiser"]["options"]["lengths"])

    first = train_autoencoder(vae, data, Plan(**config["autoencoder"]), work)
    vae.requires_grad_(False)
    reconstruct(vae, data, work / "reconstructions.png", device)
    latents = encode_all(vae, data.pictures)
    pipe = pipeline(vae, text, tokenizer, unet)

    def sample(step: int) -> None:
        pictures = draw(pipe, PROMPTS, size=wanted["size"])
        tile(pictures).save(work / f"samples_{step:06d}.png")

    second = train_denoiser(
        unet, text, tokenizer, latents, data.captions,
        Plan(**config["denoiser"]), work, sample=sample,
    )  # fmt: skip
    save_pipeline(pipe, out)
    write_card(out, config, data, info["sha256"], {"autoencoder": first, "denoiser": second})
    print(f"saved {out}")


def reconstruct(
    vae: AutoencoderKL, data: CaptionedPictures, path: Path, device: torch.device
) -> None:
    """Eight pictures above what the autoencoder makes of them."""
    truth = data.pictures[:8]
    with torch.no_grad():
        found = vae.decode(encode_all(vae, truth).to(device)).sample.cpu()
    made = ((found.clamp(-1, 1) + 1) * 127.5).round().byte()
    tile([Image.fromarray(p.permute(1, 2, 0).numpy()) for p in [*truth, *made]]).save(path)


def tile(pictures: list[Image.Image], columns: int = 8) -> Image.Image:
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (width * columns, height * rows))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


if __name__ == "__main__":
    main()
