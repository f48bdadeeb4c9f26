"""The files of GRES scores, as ReLA names them: written by a test run, scored again from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from refer.errors import DataFileError
from refer.evaluation.gres import GresEvaluator, GresProtocol
from refer.evaluation.gres_scores import GresRecord
from refer.files import read_file, write_json
from refer.options import DrawnAt, OverlapRule

# Largest: what sums of floats and other programs' ints still hold.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Info(msgspec.Struct):
    ref_id: int
    sent_id: int
    n_targets: _Count


class _Item(msgspec.Struct):
    """An item of the file: ReLA's names, ReLA's other entries left out."""

    source: str
    img_id: int
    gt_nt: bool
    pred_nt: bool
    sent: str
    sent_info: _Info
    I: _Count  # noqa: E741
    U: _Count
    pred_area: _Count

    def problem(self) -> str | None:
        """Why two masks cannot have these counts, or the item contradicts itself; None if not."""
        if self.gt_nt != (self.sent_info.n_targets == 0):
            return f"gt_nt is {self.gt_nt} with n_targets {self.sent_info.n_targets}"
        if not self.I <= self.pred_area <= self.U or (self.gt_nt and self.I):
            return f"I {self.I}, U {self.U} and pred_area {self.pred_area} do not agree"
        return None


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
    text = read_file(path, f"no file {path}; a test run on grefcoco writes it")
    try:
        content = msgspec.json.decode(text, type=list[dict[str, Any]])
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise DataFileError(f"{path} cannot be read: {error}") from error
    overlap = _stated(path, content, "overlap", get_args(OverlapRule))
    drawn_at = _stated(path, content, "drawn_at", get_args(DrawnAt))
    evaluator = GresEvaluator(replace(protocol, overlap=overlap, drawn_at=drawn_at))
    for number, item in enumerate(content):
        try:
            evaluator.add([_record(item, evaluator.protocol)])
        except (KeyError, ValueError) as error:  # msgspec's and EvaluationError among them
            raise DataFileError(f"{path}, item {number}: {error}") from error
    return evaluator


def _stated(
    path: Path, content: Sequence[Mapping[str, Any]], name: str, allowed: Sequence[Any]
) -> Any:
    """How all items' truth was drawn; None where it is not said. Raises DataFileError when they do
    not agree."""
    known = {repr(rule): rule for rule in (None, *allowed)}
    found = {repr(item.get(name)) for item in content}
    if len(found) > 1 or not found <= known.keys():
        raise DataFileError(
            f"{path}: items of {name} {', '.join(sorted(found))}; want one of "
            f"{', '.join(allowed)} for all of them, or for none"
        )
    return known[found.pop()] if found else None


def _record(item: Mapping[str, Any], protocol: GresProtocol) -> GresRecord:
    item["sent_info"]  # what files of ReLA's own code lack: said before anything else
    read = msgspec.convert(item, _Item)
    if problem := read.problem():
        raise ValueError(problem)
    info, nothing = read.sent_info, read.pred_nt
    if protocol.no_target == "pixels":
        nothing = read.pred_area < protocol.pixels
    return GresRecord(
        read.source, read.img_id, info.ref_id, info.sent_id, read.sent,
        info.n_targets, nothing, read.I, read.U, read.pred_area,
    )  # fmt: skip
