"""Train, evaluate and look at a referring segmenter, with nothing downloaded.

Runs the same commands as a user would, on generated data and the tiny backbone, and leaves in the
output folder: metrics.json, checkpoint/, curves.png, sheet.png and the folders of each run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from refer.shapes import generate
from ris.engine.report import write_json

REPO = Path(__file__).resolve().parents[1]
SPLITS = ("val", "testA", "testB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/demo"))
    parser.add_argument("--train", type=int, default=2000, help="pictures to train on")
    parser.add_argument("--epochs", type=int, help="passes over the refs (default: the config's)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    out = arguments.out.resolve()
    root = out / "data"
    out.mkdir(parents=True, exist_ok=True)
    # The data set is kept between runs; the runs themselves start afresh.
    info = generate(root, train=arguments.train, val=150, test_a=100, test_b=100, overwrite=True)
    common = ["--backbone", "tiny", "--refer_data_root", str(root), "--seed", str(arguments.seed)]
    epochs = ["--epochs", str(arguments.epochs)] if arguments.epochs else []

    def train(name: str, *extra: str) -> dict[str, Any]:
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        run(
            "train.sh", "refshapes", str(folder), "0", *common, *epochs,
            "--output-dir", str(folder), *extra,
        )  # fmt: skip
        return json.loads((folder / "metrics.json").read_text())

    trained = train("train")
    checkpoint = out / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.copytree(trained["best_weights"], checkpoint)
    scores = {}
    for split in SPLITS:
        run(
            "test.sh", "refshapes", str(checkpoint), *common, "--split", split,
            "--logdir", str(out / f"test_{split}"), "--device", "cpu",
        )  # fmt: skip
        scores[split] = json.loads((out / f"test_{split}" / "metrics.json").read_text())
    # The same head and budget, with every sentence read as one and the same word.
    blind = train("blind", "--set", "model.ignore_sentence=True")
    shutil.copy(out / "train" / "curves.png", out / "curves.png")
    command(
        "-m", "ris.cli", "sheet", str(checkpoint), "--dataset", "refshapes", "--refer_data_root",
        str(root), "--split", "val", "--out", str(out / "sheet.png"),
    )  # fmt: skip
    summary = {
        "seconds": round(time.monotonic() - started, 1),
        "data": info,
        "scores": {split: result["scores"] for split, result in scores.items()},
        "sentence_ignored": {"val": blind["scores"]},
        "protocol": scores["val"]["protocol"],
        "optimizer_steps": trained["optimizer_steps"],
        "seconds_of_training": trained["seconds"]["total"],
        "environment": scores["val"]["environment"],
    }
    write_json(out / "metrics.json", summary)
    print(f"\ndone in {summary['seconds'] / 60:.1f} minutes; look at {out / 'sheet.png'}")
    for split in SPLITS:
        print(f"  RefShapes {split:6s} oIoU {scores[split]['scores']['oIoU']:6.2f}")
    print(f"  RefShapes val    oIoU {blind['scores']['oIoU']:6.2f} when the sentence is ignored")


def run(script: str, *arguments: str) -> None:
    """Run one of the repository's shell scripts, showing its output."""
    print(f"\n$ bash {script} {' '.join(arguments)}", flush=True)
    subprocess.run(["bash", str(REPO / script), *arguments], check=True, env=_environment())


def command(*arguments: str) -> None:
    """Run this interpreter with `arguments`."""
    import sys

    subprocess.run([sys.executable, *arguments], check=True, env=_environment())


def _environment() -> dict[str, str]:
    import sys

    return {**os.environ, "PYTHON": sys.executable}


if __name__ == "__main__":
    main()
