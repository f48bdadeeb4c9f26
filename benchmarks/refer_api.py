"""Time and memory of opening a data set of RefCOCO's size: `REFER` against a classic reader.

    python benchmarks/refer_api.py [--refs 50000] [--rounds 5] [--csv FILE]

Both read the same generated files, in turns, each in a fresh process. What is compared are the
ratios. The classic reader is json.load, pickle.load and one Python loop a data set's record, which
is all that the original API does when it opens.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import pickle
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# RefCOCO (unc), for each ref.
SENTENCES, ANNOTATIONS, IMAGES = 142_210 / 50_000, 196_771 / 50_000, 19_994 / 50_000
CORNERS = 30
STAGES = {
    "open": "open the files",
    "indexes": "and ask for every index",
    "segmentations": "and read the polygons of every ref",
}
INDEXES = (
    *("Refs", "Anns", "Imgs", "Cats", "Sents", "imgToRefs", "imgToAnns", "refToAnn", "annToRef"),
    *("catToRefs", "sentToRef", "sentToTokens"),
)


class Classic:
    """What the original does on opening, by its description: load both files, fill all indexes."""

    def __init__(self, folder: Path) -> None:
        with open(folder / "refs(unc).p", "rb") as file:
            refs = pickle.load(file)  # our own file, written a moment ago
        with open(folder / "instances.json") as file:
            instances = json.load(file)
        self.data = {"refs": refs, **instances}
        self.Anns, self.Imgs, self.Cats, self.imgToAnns = {}, {}, {}, {}
        for ann in instances["annotations"]:
            self.Anns[ann["id"]] = ann
            self.imgToAnns.setdefault(ann["image_id"], []).append(ann)
        for image in instances["images"]:
            self.Imgs[image["id"]] = image
        for category in instances["categories"]:
            self.Cats[category["id"]] = category["name"]
        self.Refs, self.imgToRefs, self.refToAnn, self.annToRef = {}, {}, {}, {}
        self.catToRefs, self.Sents, self.sentToRef, self.sentToTokens = {}, {}, {}, {}
        for ref in refs:
            image_id, category_id = ref["image_id"], ref["category_id"]
            self.Refs[ref["ref_id"]] = ref
            self.imgToRefs.setdefault(image_id, []).append(ref)
            self.catToRefs.setdefault(category_id, []).append(ref)
            self.refToAnn[ref["ref_id"]] = self.Anns[ref["ann_id"]]
            self.annToRef[ref["ann_id"]] = ref
            for sentence in ref["sentences"]:
                self.Sents[sentence["sent_id"]] = sentence
                self.sentToRef[sentence["sent_id"]] = ref
                self.sentToTokens[sentence["sent_id"]] = sentence["tokens"]


def write_data(root: Path, refs: int) -> Path:
    """Write a data set with `refs` refs and RefCOCO's proportions; return its folder."""
    rng = random.Random(0)
    folder = root / "refcoco"
    folder.mkdir(parents=True)
    images = [
        {
            "id": 7 * number,
            "file_name": f"COCO_train2014_{7 * number:012d}.jpg",
            "height": 480,
            "width": 640,
            "license": 1,
            "date_captured": "2013-11-14 11:18:45",
            "coco_url": f"http://images.cocodataset.org/train2014/{7 * number:012d}.jpg",
        }
        for number in range(max(1, round(refs * IMAGES)))
    ]
    annotations = []
    for number in range(round(refs * ANNOTATIONS)):
        polygon = [round(rng.uniform(0, 480), 2) for _ in range(2 * CORNERS)]
        annotations.append(
            {
                "segmentation": [polygon],
                "area": rng.uniform(100, 1e5),
                "iscrowd": 0,
                "image_id": images[number % len(images)]["id"],
                "bbox": [round(rng.uniform(0, 480), 2) for _ in range(4)],
                "category_id": rng.randint(1, 90),
                "id": 100_000 + 3 * number,
            }
        )
    categories = [{"id": number, "name": f"category {number}"} for number in range(1, 91)]
    with open(folder / "instances.json", "w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)
    with open(folder / "refs(unc).p", "wb") as file:
        pickle.dump(_make_refs(refs, annotations, rng), file, protocol=2)
    return folder


def _make_refs(count: int, annotations: list[dict[str, Any]], rng: random.Random) -> list[Any]:
    words = ("left", "right", "man", "woman", "in", "the", "red", "shirt", "on", "table", "zebra")
    refs = []
    sent_id = 0
    for ref_id in range(count):
        ann = annotations[ref_id * len(annotations) // count]
        sentences = []
        while sent_id < (ref_id + 1) * SENTENCES:
            sent = " ".join(rng.choices(words, k=rng.randint(1, 6)))
            # Splitting and joining make each string its own object, as in the published pickles.
            raw, tokens = " ".join(sent.split()), sent.split()
            sentences.append({"tokens": tokens, "raw": raw, "sent_id": sent_id, "sent": sent})
            sent_id += 1
        refs.append(
            {
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "file_name": f"COCO_train2014_{ann['image_id']:012d}_{ref_id}.jpg",
                "ann_id": ann["id"],
                "ref_id": ref_id,
                "image_id": ann["image_id"],
                "split": "".join(("tr", "ain")),
                "sentences": sentences,
                "category_id": ann["category_id"],
            }
        )
    return refs


def measure(reader: str, root: Path, stage: str) -> dict[str, float]:
    """Open the data in this process: seconds, and the peak of resident memory in MiB."""
    from refer import REFER  # in both processes, so that both hold the same libraries

    idle = _resident_mib("VmRSS")
    gc.collect()
    start = time.perf_counter()
    opened = Classic(root / "refcoco") if reader == "classic" else REFER(root, "refcoco", "unc")
    if stage != "open":
        for name in INDEXES:
            getattr(opened, name)
    if stage == "segmentations":
        for ref_id in opened.Refs:
            opened.refToAnn[ref_id]["segmentation"]
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": _resident_mib("VmHWM") - idle}


def _resident_mib(field: str) -> float:
    # Not getrusage: its peak includes the parent's memory from before exec.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def compare(root: Path, rounds: int) -> list[dict[str, str]]:
    """One row for each stage: medians, spreads (lowest to highest) and ratios."""
    rows = []
    for stage in STAGES:
        runs: dict[str, list[dict[str, float]]] = {"classic": [], "refer": []}
        for _ in range(rounds):
            for reader, results in runs.items():
                command = [sys.executable, __file__, "--child", reader, stage, str(root)]
                answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results.append(json.loads(answer.stdout))
        row = {"stage": stage}
        for quantity, unit in (("seconds", "s"), ("peak", "MiB")):
            values = {
                reader: [run[quantity] for run in results] for reader, results in runs.items()
            }
            medians = {reader: statistics.median(found) for reader, found in values.items()}
            for reader, found in values.items():
                row[f"{reader}_{unit}"] = f"{medians[reader]:.3f}"
                row[f"{reader}_{unit}_spread"] = f"{min(found):.3f}-{max(found):.3f}"
            row[f"ratio_{unit}"] = f"{medians['refer'] / medians['classic']:.3f}"
        rows.append(row)
    return rows


def device() -> str:
    """The processor's model and the number of cores this process may use."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    """Generate the files, run the rounds, print a table and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refs", type=int, default=50_000, help="refs in the file (RefCOCO's)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each reader and stage")
    parser.add_argument(
        "--csv", type=Path, default=Path(__file__).parent / "results" / "refer_api.csv"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        reader, stage, root = args.child
        print(json.dumps(measure(reader, Path(root), stage)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), args.refs)
        rows = compare(Path(folder), args.rounds)
    shared = {"refs": args.refs, "rounds": args.rounds, "python": platform.python_version()}
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    draft = args.csv.with_suffix(".partial")
    with open(draft, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *shared, "device"])
        writer.writeheader()
        writer.writerows({**row, **shared, "device": device()} for row in rows)
    os.replace(draft, args.csv)
    print(f"{args.refs} refs, {args.rounds} rounds, {device()}")
    for row in rows:
        print(f"{row['stage']}: {STAGES[row['stage']]}")
        for unit in ("s", "MiB"):
            print(
                f"  classic {row[f'classic_{unit}']} {unit} ({row[f'classic_{unit}_spread']}), "
                f"REFER {row[f'refer_{unit}']} {unit} ({row[f'refer_{unit}_spread']}), "
                f"ratio {row[f'ratio_{unit}']}"
            )


if __name__ == "__main__":
    main()
