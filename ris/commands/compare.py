"""Compare two runs on the same items: is B better than A, and where?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refer.evaluation.compare import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "records_<split>.jsonl, or the folder of a test or training run"
    parser.add_argument("records_a", help=f"A: {what}")
    parser.add_argument("records_b", help=f"B: {what}")
    parser.add_argument("--split", help="which records of a folder that holds several")
    parser.add_argument("--resamples", type=int, default=10_000,
                        help="bootstrap draws of the pictures (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=20,
                        help="most changed items to list (default: %(default)s)")  # fmt: skip
    parser.add_argument("--refer_data_root", help="also print the sentences, from this data root")


def run(arguments: argparse.Namespace) -> None:
    from refer.evaluation import load_records, scored_line
    from refer.evaluation.compare import compare
    from refer.evaluation.recorded import open_recorded
    from ris.errors import OptionError

    if arguments.items < 0 or arguments.seed < 0:
        name = "items" if arguments.items < 0 else "seed"
        raise OptionError(f"--{name} is {getattr(arguments, name)}; want 0 or more")
    paths = [
        find_records(place, arguments.split) for place in (arguments.records_a, arguments.records_b)
    ]
    files = [load_records(path) for path in paths]
    found = compare(*files, resamples=arguments.resamples, seed=arguments.seed)
    sentences: dict[Any, str] = {}
    if arguments.refer_data_root:
        refer = open_recorded(paths[0], files[0], arguments.refer_data_root)
        sentences = {sent_id: sent["sent"] for sent_id, sent in refer.Sents.items()}
    for name, path, file in zip("AB", paths, files, strict=True):
        trades = file.header.pop("trades", None)
        print(f"{name} {path}" + (f" (trades {', '.join(trades)})" if trades else ""))
    print(f"protocol {files[0].protocol.in_words()}")
    print(scored_line(files[0].header, len(files[0].records)))
    print(report(found, arguments.items, sentences))


def find_records(place: str, split: str | None) -> Path:
    """The record file that `place` is or, if a folder, holds.

    Raises MissingDataError or OptionError where there is none or several.
    """
    from refer.errors import MissingDataError
    from ris.errors import OptionError

    folder = Path(place)
    if not folder.is_dir():
        return folder
    found = sorted(folder.glob(f"records_{split or '*'}.jsonl"))
    if not found:
        raise MissingDataError(
            f"no records_{split or '<split>'}.jsonl in {folder}; give the folder of a run of task "
            "res (ris test, ris train)"
        )
    if len(found) > 1:
        there = ", ".join(path.stem.removeprefix("records_") for path in found)
        raise OptionError(f"{folder} holds records of several splits; choose --split: {there}")
    return found[0]


def report(found: Comparison, items: int, sentences: dict[Any, str]) -> str:
    """Scores, differences with their interval, and the `items` that changed most."""
    percent = f"{100 * found.confidence:g} %"
    lines = [f"{'':6s}{'A':>8s}{'B':>8s}{'B - A':>8s}   {percent} interval"]
    for one in found.differences:
        verdict = "" if one.clear else "   (0 is inside: no clear difference)"
        lines.append(
            f"{one.name:6s}{one.a:8.2f}{one.b:8.2f}{one.points:+8.2f}   "
            f"{one.low:+.2f} to {one.high:+.2f}{verdict}"
        )
    better = sum(change.iou_b > change.iou_a for change in found.changes)
    worse = sum(change.iou_b < change.iou_a for change in found.changes)
    lines.append(
        f"{len(found.changes)} items of {found.pictures} pictures: {better} better in B, {worse} "
        f"worse; paired bootstrap by picture, {found.resamples} resamples"
    )
    changed = [change for change in found.changes[:items] if change.iou_a != change.iou_b]
    if changed:
        lines.append("changed most:")
        lines.append(f"  {'IoU A':>6s}{'IoU B':>8s}{'B - A':>8s}  item")
    for change in changed:
        said = sentences.get(change.a.sent_id, "")
        lines.append(
            f"  {100 * change.iou_a:6.1f}{100 * change.iou_b:8.1f}"
            f"{100 * (change.iou_b - change.iou_a):+8.1f}  ref {change.a.ref_id}, sentence "
            f"{change.a.sent_id}, picture {change.a.image_id}" + (f": {said!r}" if said else "")
        )
    return "\n".join(lines)
