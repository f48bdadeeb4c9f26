"""Peak memory of evaluation above the loaded weights: the published way against ours.

    python benchmarks/memory.py --size full [--device cuda] [--precision bf16] [--sentences 4]

Each way runs in a process of its own. On the CPU the peak is the process's resident set, on CUDA
that of torch's allocator.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from published_way import (
    RESULTS,
    SIDES,
    autocast,
    build,
    in_child,
    machine,
    ours,
    peak_memory,
    published_logits,
    save,
    use_kernel,
    workload,
)

from vpd import convolution

KEYS = ("size", "side", "way", "sentences", "device", "precision", "convolutions", "machine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=tuple(SIDES), default="tiny")
    parser.add_argument("--side", type=int, help="of the picture (default: 128 tiny, 512 full)")
    parser.add_argument("--sentences", type=int, default=4, help="in one batch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours")
    parser.add_argument("--convolutions", choices=("fast", "direct"), default="direct")
    parser.add_argument("--ways", nargs="+", default=["published", "ours"])
    parser.add_argument("--allocator", default="default", help=argparse.SUPPRESS)
    parser.add_argument("--csv", type=Path, default=RESULTS / "memory.csv")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    side = arguments.side or SIDES[arguments.size]
    if arguments.child:
        print(json.dumps(measure(arguments.ways[0], side, arguments)), flush=True)
        return
    rows = []
    for way in arguments.ways:
        own = [
            "--ways", way, "--size", arguments.size, "--side", str(side), "--sentences",
            str(arguments.sentences), "--device", arguments.device, "--precision",
            "fp32" if way == "published" else arguments.precision, "--convolutions",
            arguments.convolutions,
        ]  # fmt: skip
        rows += in_child(__file__, own, "default")
    for row in rows:
        print(f"{row['way']} ({row['precision']}), {row['sentences']} sentences: "
              f"{row['above_gib']} GiB above {row['loaded_gib']} GiB of weights")  # fmt: skip
    save(arguments.csv, rows, KEYS)


@torch.inference_mode()
def measure(way: str, side: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row. The published way is given its sentences in one batch too."""
    device = arguments.device
    model = build(arguments.size, device).eval()
    model.sentence_batch = arguments.sentences
    if way == "ours":
        if arguments.precision == "bf16":
            model.lower_precision(torch.bfloat16)
        if arguments.convolutions == "fast":
            model.fast_convolutions()
            convolution.prepare(model)
    loaded = peak_memory(device)
    ((picture, asked, masks),) = workload(1, arguments.sentences, side)
    with autocast(device, arguments.precision):
        if way == "published":
            use_kernel(model, "eager")
            published_logits(model, picture.expand(len(asked), -1, -1, -1), asked)
        else:
            ours(model, picture, asked, masks)
    peak = peak_memory(device)
    return {
        "size": arguments.size,
        "side": side,
        "way": way,
        "sentences": arguments.sentences,
        "device": device,
        "precision": arguments.precision,
        "convolutions": "direct" if way == "published" else arguments.convolutions,
        "loaded_gib": f"{loaded:.2f}",
        "peak_gib": f"{peak:.2f}",
        "above_gib": f"{peak - loaded:.2f}",
        "machine": machine(device),
    }


if __name__ == "__main__":
    main()
