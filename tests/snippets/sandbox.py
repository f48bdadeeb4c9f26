"""Makes the folder in which the snippets of the pages run: what a reader has by then, but small.

    python sandbox.py FOLDER REPOSITORY

RefShapes stands in for the real data sets, under their names and in their layout; random weights of
the released layout for the released ones. Scores are therefore nonsense; that every command runs,
finds its input and leaves its output is what is seen.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

SIDE = 64
LINKS = ("train.sh", "test.sh", "tools", "benchmarks", "configs", "requirements.txt")
REFERS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


def main(root: Path, repo: Path) -> None:
    """Fill `root`."""
    root.mkdir(parents=True)
    for name in LINKS:
        (root / name).symlink_to(repo / name)
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / "tiny-t2i").symlink_to(repo / "checkpoints" / "tiny-t2i")
    pictures = data(root)
    for name in ("picture", "a", "b"):
        shutil.copy(pictures[len(name)], root / f"{name}.jpg")
    demo(root)
    released(root)
    records(root)
    own(root, pictures)


def data(root: Path) -> list[Path]:
    """`refer/data` with RefShapes as RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO; its pictures."""
    from refer.shapes import generate

    made = root / "work_dirs" / "demo" / "data"
    counts = {"train": 4, "val": 2, "test_a": 2, "test_b": 1}
    generate(made, **counts, size=SIDE, extras=True, workers=1, progress=False)
    home = root / "refer" / "data"
    photos = home / "images" / "mscoco" / "images" / "train2014"
    photos.mkdir(parents=True)
    for path in (made / "images" / "refshapes").iterdir():
        shutil.copy(path, photos / coco_name(int(path.stem.split("_")[1])))
    for name, made_by in REFERS.items():
        as_coco(made / "refshapes", home / name, f"refs({made_by})")
    as_coco(made / "grefcoco", home / "grefcoco", "grefs(unc)")
    return sorted(photos.iterdir())


def coco_name(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"


def as_coco(source: Path, target: Path, refs_name: str) -> None:
    """Copy a data set, its pictures named as COCO's and its refs numbered from 1."""
    target.mkdir(parents=True)
    instances = json.loads((source / "instances.json").read_text())
    for image in instances["images"]:
        image["file_name"] = coco_name(image["id"])
    (target / "instances.json").write_text(json.dumps(instances))
    (path,) = source.glob("*refs(unc).*")
    refs: list[dict[str, Any]]
    if path.suffix == ".p":
        with open(path, "rb") as file:
            refs = pickle.load(file)
    else:
        refs = json.loads(path.read_text())
    for number, ref in enumerate(refs, start=1):
        ref["ref_id"] = number
        ref["file_name"] = coco_name(ref["image_id"])
    if path.suffix == ".p":
        with open(target / f"{refs_name}.p", "wb") as file:
            pickle.dump(refs, file)
    else:
        (target / f"{refs_name}.json").write_text(json.dumps(refs))


def demo(root: Path) -> None:
    """`work_dirs/demo/checkpoint`: the embedded backbone under a head that learnt nothing."""
    from ris import Predictor, VPDRefer
    from vpd import DiffusionBackbone

    model = VPDRefer(DiffusionBackbone.from_name("tiny", token_length=16), {"type": "WordDecoder"})
    predictor = Predictor(model, SIDE, "cpu", info={"dataset": "refshapes"})
    predictor.save_pretrained(root / "work_dirs" / "demo" / "checkpoint")


def released(root: Path) -> None:
    """Files of the released layout, and the CLIP folder `clip` that fits them."""
    from ris import VPDRefer, save_released
    from vpd import DiffusionBackbone
    from vpd.weights import random_components
    from vpd.zoo import Zoo

    for name, heads, tokens in (
        ("vpd_ris_refcoco.pth", 8, 40),
        ("vpd_ris_gref.pth", 8, 77),
        ("tiny.pth", 4, 40),
    ):
        small = Zoo(
            "small",
            "",
            unet={"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 64,
                  "attention_head_dim": heads, "layers_per_block": 1},
            vae={"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1,
                 "down_block_types": ["DownEncoderBlock2D"] * 4,
                 "up_block_types": ["UpDecoderBlock2D"] * 4},
            text={"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
                  "num_attention_heads": 1},
        )  # fmt: skip
        parts = random_components(small, 0)
        save_released(VPDRefer(DiffusionBackbone(parts, token_length=tokens)), root / name)
    parts.text_encoder.save_pretrained(root / "clip")
    parts.tokenizer.save_pretrained(root / "clip")


def records(root: Path) -> None:
    """`records_val.jsonl` of two expressions: one mask is right, one is empty."""
    from refer.evaluation import PROTOCOLS, ResEvaluator, save_records

    protocol = PROTOCOLS["vpd"]
    evaluator = ResEvaluator(protocol, "refcoco val")
    evaluator.update_counts([10, 0], [10, 20], [10, 0], [10, 20], ref_ids=[1, 2], sent_ids=[1, 2])
    header = {"dataset": "refcoco", "split": "val"}
    save_records(root / "records_val.jsonl", evaluator.records, header, protocol)


def own(root: Path, pictures: list[Path]) -> None:
    """`mine/`: pictures of all splits, a mask of their left half, and `annotations.jsonl`."""
    from PIL import Image

    (root / "mine").mkdir()
    lines = []
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (0, 0, SIDE // 2, SIDE))
    mask.save(root / "mine" / "left.png")
    for split, picture in zip(("train", "train", "val", "test"), pictures, strict=False):
        shutil.copy(picture, root / "mine")
        line = {"picture": picture.name, "mask": "left.png", "split": split}
        lines.append(json.dumps({**line, "sentences": ["the left half", "what is left"]}))
    (root / "mine" / "annotations.jsonl").write_text("\n".join(lines))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(Path(sys.argv[1]), Path(sys.argv[2]))
