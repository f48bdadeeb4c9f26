"""Write RefShapes to disk: all of it or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from refer.shapes.batches import Batch, batches
from refer.shapes.placing import (
    GROUPS,
    IMAGES,
    NAME,
    RECORDS,
    move_into_place,
    read_info,
    refuse_existing,
)
from refer.shapes.records import MAX_PICTURES
from refer.shapes.vocabulary import CATEGORY_IDS, SPLITS

VERSION = 2  # of the generated data: raise it whenever a pixel or a word changes


def generate(
    root: str | os.PathLike[str],
    *,
    train: int = 2000,
    val: int = 200,
    test_a: int = 200,
    test_b: int = 200,
    size: int | tuple[int, int] = 256,
    seed: int = 0,
    workers: int | None = None,
    extras: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write RefShapes under ``root`` in REFER layout and return what ``info.json`` holds.

    ``train``, ``val``, ``test_a``, ``test_b`` count pictures (2 or 3 refs each); ``size`` is a side
    or (height, width) in pixels, 64 at least; ``workers`` is a number of processes (default: one a
    core). The data depend on ``seed``, ``size`` and the counts only; a smaller split is the
    beginning of a larger one. ``extras`` adds what other tasks need (see ``refer.shapes.extras``).

    When the same data are there already, they are kept and nothing is written. Raises
    FileExistsError when other data are there and ``overwrite`` is not set, ValueError on bad counts
    or sizes. An interrupted run leaves what was there before.
    """
    root = Path(root)
    counts = dict(zip(SPLITS, (train, val, test_a, test_b), strict=True))
    options = _options(counts, size, seed, extras)
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; want 1 or more")
    found = read_info(root / RECORDS)
    if found is not None and not overwrite and _serves(found["options"], options):
        return found
    refuse_existing(root, extras, overwrite)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", suffix=".partial", dir=root) as draft:
        info = _write(Path(draft), options, workers, progress)
        move_into_place(Path(draft), root, extras)
    return info


def _options(
    counts: dict[str, int], size: int | tuple[int, int], seed: int, extras: bool
) -> dict[str, Any]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 64 or max(height, width) > 4 * min(height, width):
        raise ValueError(f"size is {size}; want H or (H, W), sides of 64 or more, at most 4 to 1")
    for split, count in counts.items():
        if not 0 <= count < MAX_PICTURES:
            raise ValueError(f"{split} has {count} pictures; want 0 to {MAX_PICTURES - 1}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; want 0 or more")
    return {
        "version": VERSION,
        "seed": seed,
        "size": [height, width],
        "pictures": counts,
        "extras": extras,
    }


def _serves(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether data on disk are the ones asked for; extras nobody asked for do no harm."""
    return {**found, "extras": wanted["extras"] and found["extras"]} == wanted


def _write(
    draft: Path, options: dict[str, Any], workers: int | None, progress: bool
) -> dict[str, Any]:
    """Write a whole data set into an empty folder and return its info."""
    (draft / RECORDS).mkdir()
    (draft / IMAGES).mkdir(parents=True)
    labels = draft / RECORDS / "labels" if options["extras"] else None
    if labels is not None:
        labels.mkdir()
    whole = Batch()
    total = sum(options["pictures"].values())
    with tqdm(total=total, desc="RefShapes", unit="picture", disable=not progress) as bar:
        for batch in batches(draft / IMAGES, labels, options, workers):
            whole.extend(batch)
            bar.update(len(batch.images))
    info = _info(options, whole)
    instances = {
        "info": {"description": "RefShapes, generated", "version": str(VERSION)},
        "licenses": [],
        "images": whole.images,
        "annotations": whole.annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": "shape"}
            for name, number in CATEGORY_IDS.items()
        ],
    }
    (draft / RECORDS / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    # Pickle notes which equal strings are one object, and that depends on which process made them:
    # a round trip through JSON makes the bytes a function of the content.
    refs = json.loads(json.dumps(whole.refs))
    (draft / RECORDS / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    (draft / RECORDS / "info.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    if options["extras"]:
        whole.extras.write(draft / RECORDS, draft / GROUPS, instances, info)
    return info


def _info(options: dict[str, Any], whole: Batch) -> dict[str, Any]:
    counts = {split: {"pictures": options["pictures"][split]} for split in SPLITS}
    kinds: dict[str, int] = {}
    for split in SPLITS:
        refs = [ref for ref in whole.refs if ref["split"] == split]
        counts[split]["refs"] = len(refs)
        counts[split]["sentences"] = sum(len(ref["sentences"]) for ref in refs)
    for ref in whole.refs:
        for sentence in ref["sentences"]:
            kinds[sentence["kind"]] = kinds.get(sentence["kind"], 0) + 1
    return {
        "name": "RefShapes",
        "options": options,
        "counts": counts,
        "kinds": dict(sorted(kinds.items())),
        "sha256": hashlib.sha256(b"".join(whole.digests)).hexdigest(),
    }
