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
import sys
import time
from pathlib import Path
from typing import Any

from refer import REFER
from refer.evaluation import PROTOCOLS, ResEvaluator
from refer.files import write_json
from refer.shapes import generate

REPO = Path(__file__).resolve().parents[1]
SPLITS = ("val", "testA", "testB")
EPOCHS = 3  # one less than the recipe: ten minutes must do, the environment's making included
BLIND_EPOCHS = 1
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/demo"))
    parser.add_argument("--train", type=int, default=2000, help="pictures to train on")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the refs")
    parser.add_argument("--blind-epochs", type=int, default=BLIND_EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readme", action="store_true", help="write the figures into README.md")
    arguments = parser.parse_args()
    summary = demo(arguments)
    text = describe(summary)
    print(f"\n{text}\nlook at {arguments.out / 'sheet.png'}")
    if arguments.readme:
        into_readme(text, arguments.out)


def demo(arguments: argparse.Namespace) -> dict[str, Any]:
    """Generate, train, test, train blind, draw; returns the content of metrics.json."""
    started = time.monotonic()
    out = arguments.out.resolve()
    root = out / "data"
    info = generate(root, train=arguments.train, val=150, test_a=100, test_b=100, overwrite=True)
    common = ["--backbone", "tiny", "--refer_data_root", str(root), "--seed", str(arguments.seed)]

    def train(name: str, *extra: str) -> dict[str, Any]:
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        output = ["--output-dir", str(folder)]
        script("train.sh", "refshapes", str(folder), "0", *common, *output, *extra)
        return read(folder)

    trained = train(
        "train", "--epochs", str(arguments.epochs), "--val-interval", str(arguments.epochs)
    )
    shutil.copy(out / "train" / "curves.png", out / "curves.png")
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    shutil.copytree(trained["best_weights"], out / "checkpoint")
    tested = {}
    for split in SPLITS:
        logdir = ["--split", split, "--logdir", str(out / f"test_{split}"), "--device", "cpu"]
        script("test.sh", "refshapes", str(out / "checkpoint"), *common, *logdir)
        tested[split] = read(out / f"test_{split}")
    # The same system with every sentence read as one and the same word.
    blind = train(
        "blind",
        *("--epochs", str(arguments.blind_epochs), "--val-interval", str(arguments.blind_epochs)),
        *("--set", "model.ignore_sentence=True"),
    )
    sheet = ["sheet", str(out / "checkpoint"), "--dataset", "refshapes", "--split", "val"]
    places = ["--refer_data_root", str(root), "--out", str(out / "sheet.png")]
    execute([sys.executable, "-m", "ris.cli", *sheet, *places])
    summary = {
        "seconds": round(time.monotonic() - started, 1),
        "scores": {split: result["scores"] for split, result in tested.items()},
        "sentence_ignored": {**blind["scores"], "epochs": blind["epochs"]},
        "every_object": everything(root),
        "epochs": trained["epochs"],
        "optimizer_steps": trained["optimizer_steps"],
        "seconds_of_training": trained["seconds"]["total"],
        "data": info,
        "protocol": tested["val"]["protocol"],
        "environment": tested["val"]["environment"],
    }
    write_json(out / "metrics.json", summary, default=str)
    return summary


def everything(root: Path) -> float:
    """oIoU on val of a mask over every object of the picture, whatever the sentence says."""
    refer = REFER(root, "refshapes")
    evaluator = ResEvaluator(PROTOCOLS["vpd"], "refshapes val")
    for ref in refer.loadRefs(refer.getRefIds(split="val")):
        truth = refer.getMask(ref)["mask"]
        objects = sum(refer.getMask({**ref, "ann_id": a["id"]})["mask"]
                      for a in refer.imgToAnns[ref["image_id"]])  # fmt: skip
        target, union = int(truth.sum()), int((objects > 0).sum())
        count = len(ref["sent_ids"])
        evaluator.update_counts(
            [target] * count, [union] * count, [union] * count, [target] * count,
            ref_ids=[ref["ref_id"]] * count, sent_ids=ref["sent_ids"],
        )  # fmt: skip
    return evaluator.compute()["oIoU"]


def describe(summary: dict[str, Any]) -> str:
    """The demo's figures as a Markdown table and two lines of context."""
    lines = [
        "| RefShapes, embedded backbone, frozen | P@0.5 | oIoU | mIoU |",
        "|---|---|---|---|",
    ]
    for split, scores in summary["scores"].items():
        cells = " | ".join(f"{scores[name]:.2f}" for name in ("P@0.5", "oIoU", "mIoU"))
        lines.append(f"| {split} | {cells} |")
    blind = summary["sentence_ignored"]
    cells = " | ".join(f"{blind[name]:.2f}" for name in ("P@0.5", "oIoU", "mIoU"))
    lines.append(f"| val, sentence ignored (epochs: {blind['epochs']}) | {cells} |")
    lines.append(f"| val, a mask over every object | | {summary['every_object']:.2f} | |")
    protocol = summary["protocol"]
    lines += [
        "",
        f"{summary['epochs']} epochs, {summary['optimizer_steps']} steps, "
        f"{summary['seconds_of_training'] / 60:.1f} minutes of training and "
        f"{summary['seconds'] / 60:.1f} minutes in all on {summary['environment']['device']}; "
        f"masks at {protocol['resolution']}, {protocol['sentence_mode']} sentences, "
        f"{protocol['prediction']}, overlap {protocol['overlap']}.",
    ]
    return "\n".join(lines)


def into_readme(text: str, out: Path) -> None:
    """Put the figures between README.md's marks, and the sheet beside the docs."""
    readme = REPO / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    command = "Printed by `python tools/demo.py --readme` (what `make demo` runs):"
    readme.write_text(f"{before}{BEGIN}\n{command}\n\n{text}\n{END}{after}")
    shutil.copy(out / "sheet.png", REPO / "docs" / "demo.png")


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def script(name: str, *arguments: str) -> None:
    """Run one of the repository's shell scripts, showing the command."""
    print(f"\n$ bash {name} {' '.join(arguments)}", flush=True)
    execute(["bash", str(REPO / name), *arguments])


def execute(command: list[str]) -> None:
    # More threads than this cost a model this small more than they bring.
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "PYTHON": sys.executable}
    subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
