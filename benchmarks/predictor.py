"""What a further expression about the same picture costs: set the picture once, ask many times.

    python benchmarks/predictor.py [--size full] [--device cuda] [--rounds 5] [--docs]

The first expression pays for the picture (one VAE pass) and itself; the second pays for itself.
Passes of the VAE are counted, not assumed. Weights are random: they do not change the time. Each
round is another picture and two expressions that were never asked. Rows go to benchmarks/results/,
with --docs into docs/results.md too.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from published_way import RESULTS, SIDES, WORDS, build, machine, save, timed

from ris.predictor import Predictor

KEYS = ("size", "side", "device", "dtype", "machine")
DOCS = Path(__file__).resolve().parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- predictor:begin -->", "<!-- predictor:end -->"
COLUMNS = {
    "model": "{size}, {side} px",
    "device, precision": "{device}, {dtype}",
    "first expression (VAE passes)": "{first_s} s ({first_vae})",
    "second (VAE passes)": "{second_s} s ({second_vae})",
    "ratio": "{ratio} ({ratio_min} to {ratio_max})",
    "machine": "{machine}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=tuple(SIDES), default="tiny")
    parser.add_argument("--side", type=int, help="of the picture (default: 128 tiny, 512 full)")
    parser.add_argument("--rounds", type=int, default=5, help="pictures")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--csv", type=Path, default=RESULTS / "predictor.csv")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/results.md")
    arguments = parser.parse_args()
    row = measure(
        arguments.size,
        arguments.side or SIDES[arguments.size],
        arguments.rounds,
        arguments.device,
        arguments.dtype,
    )
    save(arguments.csv, [row], KEYS)
    print(
        f"{row['size']} {row['side']} px, {row['dtype']} on {row['device']}: first expression "
        f"{row['first_s']} s ({row['first_vae']} VAE passes), second {row['second_s']} s "
        f"({row['second_vae']}): {row['ratio']} x [{row['ratio_min']}, {row['ratio_max']}]"
    )
    if arguments.docs:
        draft = DOCS.with_suffix(".partial")
        draft.write_text(filled(DOCS.read_text(), arguments.csv))
        os.replace(draft, DOCS)


def filled(text: str, path: Path) -> str:
    """The page with the table of the CSV at `path` between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(path)}\n{END}{rest.split(END)[1]}"


def table(path: Path) -> str:
    """The rows of the CSV as Markdown."""
    if not path.is_file():
        return "Not measured yet."
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(cell.format(**row) for cell in COLUMNS.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def measure(size: str, side: int, rounds: int, device: str, dtype: str) -> dict[str, Any]:
    """One row: medians over `rounds` pictures, after one that is not counted."""
    predictor = Predictor(build(size, device), side, device, dtype)
    passes: list[int] = []
    predictor.model.backbone.vae.encoder.register_forward_hook(
        lambda module, inputs, output: passes.append(len(output))
    )
    chance = np.random.default_rng(0)
    first, second = [], []

    def ask(number: int) -> None:
        predictor.predict(" ".join(chance.choice(WORDS, 4)) + f" {number}")

    def ask_first(number: int) -> None:
        predictor.set_image(chance.integers(0, 256, (side, side, 3), np.uint8))
        ask(number)

    for number in range(rounds + 1):
        for asked, kept, own in ((ask_first, first, 2 * number), (ask, second, 2 * number + 1)):
            passes.clear()
            # Its number makes every sentence new: no text features are at hand.
            taken, _ = timed(partial(asked, own), device)
            if number:
                kept.append((taken, sum(passes)))
    ratios = [one[0] / other[0] for one, other in zip(first, second, strict=True)]
    return {
        "size": size,
        "side": side,
        "device": device,
        "dtype": dtype,
        "rounds": rounds,
        "first_s": f"{statistics.median(seconds for seconds, _ in first):.4g}",
        "second_s": f"{statistics.median(seconds for seconds, _ in second):.4g}",
        "ratio": f"{statistics.median(ratios):.2f}",
        "ratio_min": f"{min(ratios):.2f}",
        "ratio_max": f"{max(ratios):.2f}",
        "first_vae": f"{sum(count for _, count in first) / rounds:g}",
        "second_vae": f"{sum(count for _, count in second) / rounds:g}",
        "machine": machine(device),
    }


if __name__ == "__main__":
    main()
