"""What each trade gains and loses: the exact path against it, in turns, in one process.

    python benchmarks/trades.py --size tiny [--rounds 12]
    python benchmarks/trades.py --size full [--tiny-vae FOLDER] [--device cuda] [--precision bf16]

`tiny` is a segmenter trained on the embedded backbone (--weights FOLDER, as `make demo` leaves it;
without one its head is random) on generated pictures. `full` has Stable Diffusion 1.5's shapes with
random weights on noise: its times count, its agreement is only a hint of what trained weights would
do; with --weights it is a trained segmenter's. A distilled UNet is another network with
weights of its own, so that only its time can be compared. Rows go to benchmarks/results/trades.csv.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from published_way import (
    RESULTS,
    SIDES,
    TOKENS,
    autocast,
    build,
    machine,
    run_as_ris,
    save,
    timed,
    workload,
)

from refer.transforms import normalise
from ris import checkpoints
from ris.models import VPDRefer
from vpd import DiffusionBackbone
from vpd.weights import random_components
from vpd.zoo import named

KEYS = ("size", "side", "trade", "device", "precision", "machine")
TRADES: dict[str, dict[str, Any]] = {
    "exact, again": {},
    "merge_tokens=0.25": {"merge_tokens": 0.25},
    "merge_tokens=0.5": {"merge_tokens": 0.5},
    "merge_tokens=0.75": {"merge_tokens": 0.75},
    "int8": {"int8": True},
    "tiny_vae": {},  # its source is an option
    "distilled UNet": {},  # another network
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=tuple(SIDES), default="tiny")
    parser.add_argument("--side", type=int, help="of the picture (default: 128 tiny, 512 full)")
    parser.add_argument("--sentences", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3, help="pictures, each run both ways")
    parser.add_argument("--only", nargs="+", choices=tuple(TRADES),
                        help="(default: all; tiny: without the other networks)")  # fmt: skip
    parser.add_argument("--weights", type=Path, help="a trained segmenter")
    parser.add_argument("--tiny-vae", help="an AutoencoderTiny (default: random, for its time)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of both")
    parser.add_argument("--csv", type=Path, default=RESULTS / "trades.csv")
    arguments = parser.parse_args()
    arguments.side = arguments.side or SIDES[arguments.size]
    run_as_ris(arguments.device)
    exact = _exact(arguments)
    # The embedded backbone is as small as a tiny autoencoder or a distilled UNet would make it.
    other = {"tiny_vae", "distilled UNet"} if arguments.size == "tiny" else set()
    for name in arguments.only or [name for name in TRADES if name not in other]:
        with tempfile.TemporaryDirectory() as folder:
            traded = _traded(name, exact, arguments, Path(folder))
        row = measure(name, exact, traded, arguments)
        save(arguments.csv, [row], KEYS)
        print(
            f"{row['size']} {row['side']} px, {name}: {row['exact_s']} s a pair exact, "
            f"{row['trade_s']} traded: {row['ratio']} x ({row['ratio_min']} to {row['ratio_max']});"
            f" equal pixels {row['equal_pixels'] or '-'} %, oIoU of the two {row['oiou'] or '-'} % "
            f"(weights: {row['weights']})",
            flush=True,
        )


@torch.inference_mode()
def measure(
    name: str, exact: VPDRefer, traded: VPDRefer, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One row of the CSV."""
    device = arguments.device
    seconds: dict[str, list[float]] = {"exact": [], "trade": []}
    equal, both, either = [], 0, 0
    for number, (picture, asked) in enumerate(_pictures(arguments)):
        found = {}
        if not number:
            asked = asked[:1]  # not counted: memory is taken, second forms of weights are made
        # Who goes first changes from picture to picture.
        order = [("exact", exact), ("trade", traded)]
        for way, model in order if number % 2 else order[::-1]:
            with autocast(device, arguments.precision):
                spent, found[way] = timed(lambda m=model, p=picture, a=asked: run(m, p, a), device)
            if number:
                seconds[way].append(spent / len(asked))
        if number:
            one, two = found["exact"], found["trade"]
            equal.append((one == two).float().mean().item())
            both += int((one & two).sum())
            either += int((one | two).sum())
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["exact"], seconds["trade"], strict=True)]
    weights = "random" if arguments.size == "full" else "pre-trained, head random"
    weights = "trained" if arguments.weights is not None else weights
    comparable = name != "distilled UNet" and (name != "tiny_vae" or arguments.tiny_vae)
    return {
        "size": arguments.size,
        "side": arguments.side,
        "trade": name,
        "sentences": arguments.sentences,
        "rounds": arguments.rounds,
        "device": device,
        "precision": arguments.precision,
        "weights": weights,
        "exact_s": f"{medians['exact']:.4g}",
        "trade_s": f"{medians['trade']:.4g}",
        "ratio": f"{medians['exact'] / medians['trade']:.2f}",
        "ratio_min": f"{min(ratios):.2f}",
        "ratio_max": f"{max(ratios):.2f}",
        "equal_pixels": f"{100 * statistics.fmean(equal):.2f}" if comparable else "",
        "oiou": f"{100 * both / either:.2f}" if comparable and either else "",
        "machine": machine(device),
    }


def run(model: VPDRefer, picture: torch.Tensor, asked: list[str]) -> torch.Tensor:
    """One picture's sentences as `ris test` runs them: bool [S, H, W] on the CPU."""
    model.backbone.texts.forget()
    image = normalise(picture.to(next(model.parameters()).device))
    index = torch.zeros(len(asked), dtype=torch.long)
    return model(image, asked, mode="predict", picture_index=index).cpu()


def _exact(arguments: argparse.Namespace) -> VPDRefer:
    if arguments.weights is not None:
        model = checkpoints.load(arguments.weights).to(arguments.device)
    elif arguments.size == "full":
        model = build("full", arguments.device).eval()
    else:
        torch.manual_seed(0)
        backbone = DiffusionBackbone.from_name("tiny", token_length=TOKENS)
        model = VPDRefer(backbone).to(arguments.device).eval()
    model.sentence_batch = 4
    model.fast_convolutions()
    return model


def _traded(name: str, exact: VPDRefer, arguments: argparse.Namespace, folder: Path) -> VPDRefer:
    """A copy of the exact model with one trade; what it leaves alone is shared in memory."""
    if name == "distilled UNet":
        # The shapes of BK-SDM-Small: one layer a level less on both ways, and no middle.
        zoo = named("sd15" if arguments.size == "full" else "tiny")
        unet = {**zoo.unet, "layers_per_block": 1, "mid_block_type": None}
        parts = random_components(type(zoo)("distilled", "", unet, zoo.vae, zoo.text), 0,
                                  prepared=False)  # fmt: skip
        length = exact.backbone.token_length
        model = VPDRefer(DiffusionBackbone(parts, token_length=length), exact.head_config)
        model.sentence_batch = exact.sentence_batch
        model.fast_convolutions()
        return model.to(arguments.device).eval()
    traded = copy.deepcopy(exact, {id(weight): weight for weight in exact.parameters()})
    wanted = dict(TRADES[name])
    if name == "tiny_vae":
        wanted["tiny_vae"] = arguments.tiny_vae or str(_random_tiny(exact, folder))
    traded.backbone.trade(wanted)
    traded.fast_convolutions()
    return traded


def _random_tiny(exact: VPDRefer, folder: Path) -> Path:
    channels = exact.backbone.vae.config.latent_channels
    AutoencoderTiny(latent_channels=channels).save_pretrained(folder)
    return folder


def _pictures(arguments: argparse.Namespace) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """A picture that is not counted, then `rounds`: uint8 [1, 3, H, W] and its sentences."""
    if arguments.size == "full":
        for picture, asked, _ in workload(
            arguments.rounds + 1, arguments.sentences, arguments.side
        ):
            yield picture, asked
        return
    from refer import REFER
    from refer.pictures import open_picture
    from refer.shapes import generate
    from refer.transforms import resize_picture

    with tempfile.TemporaryDirectory() as root:
        generate(Path(root), train=0, val=arguments.rounds + 1, test_a=0, test_b=0,
                 size=arguments.side, seed=1, workers=1, progress=False)  # fmt: skip
        refer = REFER(root, "refshapes")
        for image_id in refer.getImgIds(refer.getRefIds(split="val"))[: arguments.rounds + 1]:
            asked = [s["sent"] for ref in refer.imgToRefs[image_id] for s in ref["sentences"]]
            pixels = resize_picture(open_picture(refer.image_path(image_id)), arguments.side)
            yield pixels[None], asked[: arguments.sentences]


if __name__ == "__main__":
    main()
