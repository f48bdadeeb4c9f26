"""Pairs a second in evaluation: the published way against ours, alternating in one process.

    python benchmarks/eval_speed.py --size full [--device cuda] [--precision bf16] [--rounds 3]

The workload is RefCOCO val's: about 7 sentences a picture. Same weights (random), same masks. On
the CPU everything is measured under the system's allocator and under one that keeps its heap in
huge pages, since a large share of the published way's time is page faults. Rows go to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from published_way import (
    ALLOCATORS,
    RESULTS,
    SIDES,
    allocator_of,
    as_tested,
    autocast,
    build,
    flop_limit,
    flops_of,
    in_child,
    machine,
    ours,
    published,
    read,
    save,
    timed,
    use_kernel,
    workload,
)

from refer.transforms import normalise

KEYS = ("size", "side", "sentences", "device", "precision", "allocator", "machine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=tuple(SIDES), default="tiny")
    parser.add_argument("--side", type=int, help="of the picture (default: 128 tiny, 512 full)")
    parser.add_argument("--sentences", type=int, default=7)
    parser.add_argument("--sentence-batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="pictures, each run both ways")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--allocator", choices=(*ALLOCATORS, "both"), default="both",
                        help="both: default, and the one that ris runs under")  # fmt: skip
    parser.add_argument("--csv", type=Path, default=RESULTS / "eval_speed.csv")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments)), flush=True)
        return
    own = [
        "--size", arguments.size, "--side", str(arguments.side or SIDES[arguments.size]),
        "--sentences", str(arguments.sentences), "--rounds", str(arguments.rounds), "--device",
        arguments.device, "--precision", arguments.precision, "--sentence-batch",
        str(arguments.sentence_batch),
    ]  # fmt: skip
    allocators = (
        ["default", allocator_of(arguments.device)]
        if arguments.allocator == "both"
        else [arguments.allocator]
    )
    if arguments.device == "cuda":
        allocators = ["default"]
    rows = [row for one in allocators for row in in_child(__file__, own, one)]
    save(arguments.csv, [{**row, "ratio_to_default": ""} for row in rows], KEYS)
    known = read(arguments.csv)
    # Of every row: the one under the default allocator may be new, and all are compared with it.
    save(arguments.csv, [{**r, "ratio_to_default": as_launched(r, known)} for r in known], KEYS)
    for row in rows:
        print(
            f"{row['size']} {row['side']} px, {row['precision']}, {row['allocator']} allocator: "
            f"published {row['published_s']} s a pair, ours {row['ours_s']} "
            f"[{row['ours_min']}, {row['ours_max']}]: {row['ratio']} x; GFLOP a pair "
            f"{row['published_gflop']} and {row['ours_gflop']}; {row['share_of_limit']} % of the "
            f"limit; masks equal in {row['equal_pixels']} % (ties {row['ties']})"
        )


def as_launched(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Ours in this row against the published way under the system's allocator, in which published
    code runs unless told otherwise; empty where that was not measured."""
    same = ("size", "side", "sentences", "device", "machine")
    for base in rows:
        if base["allocator"] == "default" and all(str(base[n]) == str(row[n]) for n in same):
            return f"{float(base['published_s']) / float(row['ours_s']):.2f}"
    return ""


@torch.inference_mode()
def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: both ways in turns over the same pictures. The baseline is always float32 as
    published; ours runs in the precision asked for."""
    model = build(arguments.size, arguments.device).eval()
    model.sentence_batch = arguments.sentence_batch
    tested = as_tested(model, arguments.precision)
    device, times, equal, ties = arguments.device, {"published": [], "ours": []}, [], 0
    # A first, uncounted round: kernels are chosen and memory is taken.
    (warm,) = workload(1, 1, arguments.side)
    published(model, *warm)
    with autocast(device, arguments.precision):
        ours(tested, *warm)
    for picture, asked, masks in workload(arguments.rounds, arguments.sentences, arguments.side):
        seconds, theirs = timed(
            lambda p=picture, a=asked, m=masks: published(model, p, a, m), device
        )
        times["published"].append(seconds / len(asked))
        with autocast(device, arguments.precision):
            seconds, own = timed(lambda p=picture, a=asked, m=masks: ours(tested, p, a, m), device)
        times["ours"].append(seconds / len(asked))
        equal.append((own == theirs).float().mean().item())
        if arguments.precision == "fp32":
            ties += _untied(model, picture, asked, own, theirs)
    picture, asked, masks = next(iter(workload(1, arguments.sentences, arguments.side)))
    with autocast(device, arguments.precision):
        work = flops_of(lambda: ours(tested, picture, asked, masks)) / len(asked)
    theirs_work = flops_of(lambda: published(model, picture, asked[:1], masks[:1]))
    limit = flop_limit(device, arguments.precision)
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "size": arguments.size,
        "side": arguments.side,
        "sentences": arguments.sentences,
        "sentence_batch": arguments.sentence_batch,
        "rounds": arguments.rounds,
        "device": device,
        "precision": arguments.precision,
        "allocator": arguments.allocator,
        "published_s": f"{medians['published']:.4g}",
        "published_min": f"{min(times['published']):.4g}",
        "published_max": f"{max(times['published']):.4g}",
        "ours_s": f"{medians['ours']:.4g}",
        "ours_min": f"{min(times['ours']):.4g}",
        "ours_max": f"{max(times['ours']):.4g}",
        "ratio": f"{medians['published'] / medians['ours']:.2f}",
        "published_gflop": f"{theirs_work / 1e9:.1f}",
        "ours_gflop": f"{work / 1e9:.1f}",
        "limit_gflop_s": f"{limit / 1e9:.0f}",
        "share_of_limit": f"{100 * work / medians['ours'] / limit:.0f}",
        "equal_pixels": f"{100 * statistics.fmean(equal):.3f}",
        "ties": ties,
        "machine": machine(device),
    }


def _untied(
    model: Any, picture: torch.Tensor, asked: list[str], own: torch.Tensor, theirs: torch.Tensor
) -> int:
    """Pixels that differ though their logits do not tie within 1e-4: none is what is wanted."""
    found = 0
    for number, sentence in enumerate(asked):
        different = own[number] != theirs[number]
        if different.any():
            use_kernel(model, "sdpa")
            logits = model(normalise(picture.to(next(model.parameters()).device)), [sentence])[0]
            margin = (logits[1] - logits[0]).abs().cpu()
            found += int((different & (margin > 1e-4)).sum())
    return found


if __name__ == "__main__":
    main()
