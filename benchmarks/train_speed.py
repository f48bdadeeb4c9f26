"""Seconds and memory of a training step: the published way against ours.

    python benchmarks/train_speed.py --size full [--device cuda] [--precision bf16] [--rounds 3]

The published step at batch 1: VAE and text encoder again, UNet with full maps and LDM's activation
checkpointing, gradients and AdamW moments of the whole UNet. Ours: latents and contexts from the
cache, SDPA, `finetune` or `frozen`; `parked`: VAE and text encoder wait on disk meanwhile. Each way
runs in a process of its own, since memory is compared too: the peak is that of the whole process
(CPU) or of torch's allocator (CUDA).
"""

from __future__ import annotations

import argparse
import atexit
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from published_way import (
    ALLOCATORS,
    RESULTS,
    SIDES,
    autocast,
    build,
    in_child,
    machine,
    peak_memory,
    read,
    save,
    timed,
    use_kernel,
    workload,
)

from refer.transforms import normalise
from ris.engine.optim import build_optimizer

KEYS = ("size", "side", "batch", "way", "device", "precision", "allocator", "machine")
WAYS = {
    "published": {"unet_mode": "finetune", "attention_kernel": "eager", "checkpointing": True},
    "finetune": {"unet_mode": "finetune"},
    "finetune, checkpointing": {"unet_mode": "finetune", "checkpointing": True},
    "finetune, light checkpointing": {"unet_mode": "finetune", "checkpointing": "light"},
    "finetune, in backward": {"unet_mode": "finetune"},
    "finetune, checkpointing, in backward": {"unet_mode": "finetune", "checkpointing": True},
    "finetune, light checkpointing, in backward": {
        "unet_mode": "finetune",
        "checkpointing": "light",
    },
    "frozen": {"unet_mode": "frozen"},
    "frozen, checkpointing": {"unet_mode": "frozen", "checkpointing": True},
    "frozen, light checkpointing": {"unet_mode": "frozen", "checkpointing": "light"},
    "frozen, weights in bf16": {"unet_mode": "frozen"},  # `optim.lower_frozen`
    "finetune, checkpointing, in backward, parked": {
        "unet_mode": "finetune",
        "checkpointing": True,
    },
    "finetune, light checkpointing, in backward, parked": {
        "unet_mode": "finetune",
        "checkpointing": "light",
    },
    "frozen, checkpointing, parked": {"unet_mode": "frozen", "checkpointing": True},
    "frozen, light checkpointing, parked": {"unet_mode": "frozen", "checkpointing": "light"},
}
ONLY_BF16 = ("frozen, weights in bf16",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=tuple(SIDES), default="tiny")
    parser.add_argument("--side", type=int, help="of the picture (default: 128 tiny, 512 full)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours")
    parser.add_argument("--allocator", choices=tuple(ALLOCATORS), default="default")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS),
                        help="default: all that fit the precision")  # fmt: skip
    parser.add_argument("--csv", type=Path, default=RESULTS / "train_speed.csv")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    side = arguments.side or SIDES[arguments.size]
    fitting = [way for way in WAYS if arguments.precision == "bf16" or way not in ONLY_BF16]
    arguments.ways = arguments.ways or fitting
    if unfit := set(arguments.ways) - set(fitting):
        parser.error(f"{', '.join(unfit)}: needs --precision bf16")
    if arguments.child:
        (way,) = arguments.ways
        print(json.dumps(measure(way, side, arguments)), flush=True)
        return
    rows = []
    for way in arguments.ways:
        own = [
            "--ways", way, "--size", arguments.size, "--side", str(side), "--batch",
            str(arguments.batch), "--rounds", str(arguments.rounds), "--device", arguments.device,
            "--precision", "fp32" if way == "published" else arguments.precision,
        ]  # fmt: skip
        rows += in_child(__file__, own, arguments.allocator)
    same = ("size", "side", "batch", "device", "allocator", "machine")
    known_rows = [*rows, *read(arguments.csv)]
    base = next(
        (
            row
            for row in known_rows
            if row["way"] == "published" and all(str(row[n]) == str(rows[0][n]) for n in same)
        ),
        None,
    )
    for row in rows:
        known = base is not None
        row["ratio"] = f"{float(base['seconds']) / float(row['seconds']):.2f}" if known else ""
        share = float(row["peak_gib"]) / float(base["peak_gib"]) if known else 0.0
        row["memory_share"] = f"{share:.2f}" if known else ""
        print(
            f"{row['way']} ({row['precision']}): {row['seconds']} s a step, {row['ratio']} x; "
            f"peak {row['peak_gib']} GiB, {row['memory_share']} of the published way's"
        )
    save(arguments.csv, [{**row, "ratio_to_default": ""} for row in rows], KEYS)
    known_rows = read(arguments.csv)
    # Of every row: the one under the default allocator may be new, and all are compared with it.
    save(
        arguments.csv,
        [{**row, "ratio_to_default": as_launched(row, known_rows)} for row in known_rows],
        KEYS,
    )


def as_launched(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """This row's time and peak against the published way's under the system's allocator, in which
    published code runs unless told otherwise; empty where that was not measured."""
    same = ("size", "side", "batch", "device", "machine")
    for base in rows:
        if (base["way"], base["allocator"]) == ("published", "default") and all(
            str(base[name]) == str(row[name]) for name in same
        ):
            times = float(base["seconds"]) / float(row["seconds"])
            share = float(row["peak_gib"]) / float(base["peak_gib"])
            return f"{times:.2f} x at {share:.2f}"
    return ""


def measure(way: str, side: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: steps of one way in this process."""
    device, batch = arguments.device, arguments.batch
    model = build(arguments.size, device, **WAYS[way])
    model.latents.in_memory = 0 if way == "published" else 1 << 30
    if way == "published":
        use_kernel(model, "eager")
    if way in ONLY_BF16:
        model.lower_frozen(torch.bfloat16, "not saved")
    model.train()
    settings = {"lr": 5e-5, "weight_decay": 1e-2, "amsgrad": False, "accumulate": 1, "clip": None,
                "precision": arguments.precision,
                "in_backward": "in backward" in way}  # fmt: skip
    wrapper = build_optimizer(model, settings, device)
    if way.endswith("parked"):  # `model.park_encoders`
        place = tempfile.TemporaryDirectory()
        atexit.register(place.cleanup)
        model.park_encoders, model.cache_dir = True, place.name
        model.park()
    loaded = peak_memory(device)
    ((picture, asked, masks),) = workload(1, batch, side)
    image = normalise(picture.to(device)).expand(batch, -1, -1, -1)
    masks = masks.to(device).to(torch.uint8)

    names = [str(number) for number in range(batch)]

    def step() -> None:
        if way == "published":
            model.backbone.texts.forget()
        with autocast(device, arguments.precision):
            loss = model(image, asked, masks, mode="loss", picture=names)["loss"]
        wrapper.update_params(loss)

    step()  # fills the caches and the optimizer's moments
    seconds = [timed(step, device)[0] for _ in range(arguments.rounds)]
    return {
        "size": arguments.size,
        "side": side,
        "batch": batch,
        "way": way,
        "device": device,
        "precision": arguments.precision,
        "allocator": arguments.allocator,
        "seconds": f"{statistics.median(seconds):.4g}",
        "seconds_min": f"{min(seconds):.4g}",
        "seconds_max": f"{max(seconds):.4g}",
        "ratio": "",
        "loaded_gib": f"{loaded:.2f}",
        "peak_gib": f"{peak_memory(device):.2f}",
        "memory_share": "",
        "machine": machine(device),
    }


if __name__ == "__main__":
    main()
