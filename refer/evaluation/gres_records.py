"""The files of GRES scores, as ReLA names them: written by a test run, scored again from there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from refer.errors import DataFileError, MissingDataError
from refer.evaluation.gres import GresEvaluator, GresProtocol
from refer.evaluation.gres_scores import GresRecord
from refer.evaluation.protocol import EvaluationError
from refer.files import write_json
from refer.options import DrawnAt, OverlapRule


def save(folder: str | Path, dataset: str, evaluator: GresEvaluator) -> tuple[Path, Path]:
    """Write `<dataset>_results.json` and `<dataset>_detailed_results.json`, as ReLA names them.

    The second has ReLA's entries for each item, and with them what scoring again needs and, of the
    truth, by which rule it was drawn.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = [[source, scores] for source, scores in evaluator.compute().items()]
    details = [
        {
            "source": r.source,
            "img_id": r.img_id,
            "gt_nt": r.gt_nt,
            "pred_nt": r.pred_nt,
            "sent": r.sent,
            "sent_info": {"ref_id": r.ref_id, "sent_id": r.sent_id, "n_targets": r.n_targets},
            "I": r.intersection,
            "U": r.union,
            "cIoU": r.intersection / r.union if r.union else 0.0,
            "pred_area": r.pred_area,
            "overlap": evaluator.protocol.overlap,
            "drawn_at": evaluator.protocol.drawn_at,
        }
        for r in evaluator.records
    ]
    paths = (folder / f"{dataset}_results.json", folder / f"{dataset}_detailed_results.json")
    for path, content in zip(paths, (results, details), strict=True):
        write_json(path, content)
    return paths


def load(path: str | Path, protocol: GresProtocol | None = None) -> GresEvaluator:
    """The evaluator of a saved `<dataset>_detailed_results.json`, scored under `protocol`.

    How the truth was drawn (overlap rule, size) is the file's; None for older files, which do not
    say.

    Raises MissingDataError, or DataFileError naming the item, when it cannot be read so.
    """
    path = Path(path)
    protocol = protocol or GresProtocol()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingDataError(f"no file {path}; a test run on grefcoco writes it") from None
    except (OSError, ValueError) as error:
        raise DataFileError(f"{path} cannot be read: {error}") from error
    overlap = _stated(path, content, "overlap", get_args(OverlapRule))
    drawn_at = _stated(path, content, "drawn_at", get_args(DrawnAt))
    evaluator = GresEvaluator(replace(protocol, overlap=overlap, drawn_at=drawn_at))
    for number, item in enumerate(content):
        try:
            evaluator.add([_record(item, evaluator.protocol)])
        except (KeyError, TypeError, EvaluationError) as error:
            raise DataFileError(f"{path}, item {number}: {error}") from error
    return evaluator


def _stated(path: Path, content: Sequence[Any], name: str, allowed: Sequence[Any]) -> Any:
    """How all items' truth was drawn; None where it is not said. Raises DataFileError when they do
    not agree."""
    known = {repr(rule): rule for rule in (None, *allowed)}
    found = {repr(item.get(name)) for item in content if isinstance(item, dict)}
    if len(found) > 1 or not found <= known.keys():
        raise DataFileError(
            f"{path}: items of {name} {', '.join(sorted(found))}; want one of "
            f"{', '.join(allowed)} for all of them, or for none"
        )
    return known[found.pop()] if found else None


def _record(item: Mapping[str, Any], protocol: GresProtocol) -> GresRecord:
    info = item["sent_info"]
    nothing = item["pred_nt"]
    if protocol.no_target == "pixels":
        nothing = item["pred_area"] < protocol.pixels
    return GresRecord(
        item["source"], item["img_id"], info["ref_id"], info["sent_id"], item["sent"],
        info["n_targets"], bool(nothing), item["I"], item["U"], item["pred_area"],
    )  # fmt: skip
